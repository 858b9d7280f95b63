"""What must hold for every stack of both stages."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import cfnlint.api
import pytest
from aws_cdk import App, Stack, Validations
from aws_cdk import aws_s3 as s3
from cdk_nag import AwsSolutionsChecks
from conftest import CONTEXT, ROOT

# actions that AWS defines without a resource: a network interface has no name before it is made; traces, log deliveries and
# a registry's token have none at all
WITHOUT_RESOURCE = {
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
    "xray:GetSamplingRules",
    "xray:GetSamplingTargets",
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
    "ecr:GetAuthorizationToken",
}
# integration of Step Functions -> what it calls beside the action in its name
IMPLIED = {
    "sagemaker:createProcessingJob.sync": {
        "sagemaker:CreateProcessingJob",
        "sagemaker:AddTags",
        "sagemaker:DescribeProcessingJob",
        "sagemaker:StopProcessingJob",
        "iam:PassRole",
        "events:PutTargets",
        "events:PutRule",
        "events:DescribeRule",
    },
    "lambda:invoke": {"lambda:InvokeFunction"},
    "sns:publish": {"sns:Publish"},
    "states:startExecution": {"states:StartExecution"},
    "aws-sdk:s3:getObject": {"s3:GetObject", "s3:ListBucket"},  # without ListBucket a missing object is a 403
    "aws-sdk:s3:putObject": {"s3:PutObject"},
    "aws-sdk:s3:deleteObject": {"s3:DeleteObject"},
    "aws-sdk:s3:listObjectsV2": {"s3:ListBucket"},
    "aws-sdk:s3:headObject": {"s3:GetObject", "s3:ListBucket"},
}
# the CDK has a function wait for its role, which its ARN does already
LINT_OFF = ["W3005"]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def granted(stage) -> Iterator[tuple[str, dict[str, Any]]]:
    """(logical id, statement) of every permission that a role is given."""
    for kind in ("AWS::IAM::Policy", "AWS::IAM::Role"):
        for logical_id, resource in stage.of_type(kind).items():
            documents = [resource["Properties"].get("PolicyDocument")]
            documents += [policy["PolicyDocument"] for policy in resource["Properties"].get("Policies", [])]
            for document in filter(None, documents):
                yield from ((logical_id, statement) for statement in as_list(document["Statement"]))


def test_no_role_is_given_a_pattern_of_actions(stage):
    wide = [(role, action) for role, statement in granted(stage) for action in as_list(statement["Action"]) if "*" in action]
    assert wide == []


def test_a_role_is_given_every_resource_only_for_actions_that_take_none(stage):
    checked = 0
    for role, statement in granted(stage):
        if "*" in as_list(statement["Resource"]):
            assert set(as_list(statement["Action"])) <= WITHOUT_RESOURCE, role
            checked += 1
    assert checked  # the functions in the network: the test has seen such a statement


def test_no_resource_policy_lets_everybody_in(stage):
    for kind in ("AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy"):
        for properties in stage.properties(kind):
            for statement in properties["PolicyDocument"]["Statement"]:
                if statement["Effect"] == "Allow":
                    assert statement["Principal"] not in ("*", {"AWS": "*"})


@pytest.mark.parametrize("kind", ["AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy"])
def test_buckets_and_queues_refuse_what_is_not_encrypted_on_the_way(stage, kind):
    for properties in stage.properties(kind):
        refusals = [s for s in properties["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        assert any(s["Condition"].get("Bool") == {"aws:SecureTransport": "false"} for s in refusals)


def test_every_bucket_has_such_a_policy_and_every_queue_too(stage):
    assert len(stage.properties("AWS::S3::BucketPolicy")) == len(stage.properties("AWS::S3::Bucket"))
    assert len(stage.properties("AWS::SQS::QueuePolicy")) == len(stage.properties("AWS::SQS::Queue"))


def test_log_groups_end_with_the_stages_retention(stage):
    days = {properties["RetentionInDays"] for properties in stage.properties("AWS::Logs::LogGroup")}
    assert days == {stage.stage.log_retention_days}


def test_every_lambda_runs_on_python_312_in_private_subnets_with_a_log_group_of_its_own(stage):
    """The function that renews the snapshot calls the API of Lambda alone, which the private network does not reach."""
    functions = stage.of_type("AWS::Lambda::Function")
    assert len(functions) >= 5
    for name, function in ((name, resource["Properties"]) for name, resource in functions.items()):
        assert (function["Runtime"], function["Architectures"]) == ("python3.12", ["x86_64"])
        assert bool(function.get("VpcConfig")) != name.startswith("QuerySnapshot")
        assert function["LoggingConfig"]["LogGroup"]


def test_nothing_in_the_templates_names_an_account_or_a_region(stage):
    texts = [path.read_text() for path in stage.folder.glob("*.template.json")]
    images = stage.stage.processing_image.partition(".")[0]  # the account of AWS's own containers
    assert texts
    for text in texts:
        assert not re.search(r"arn:aws:[a-z0-9]+:[a-z]{2}-[a-z]+-\d|:\d{12}:", text.replace(images, ""))


def test_synth_looks_up_nothing(stage):
    assert "missing" not in (stage.folder / "manifest.json").read_text().split('"artifacts"')[0]


def test_cfn_lint_finds_nothing(stage):
    for path in stage.folder.glob("*.template.json"):
        found = cfnlint.api.lint(path.read_text(), cfnlint.api.ManualArgs(regions=["eu-west-1"]))
        assert [f"{path.name}: {match}" for match in found if match.rule.id not in LINT_OFF] == []


def test_every_aws_solutions_finding_is_mended_or_answered(stage):
    assert json.loads((stage.folder / "validation-report.json").read_text())["pluginReports"] == []


def test_the_rules_see_a_bucket_that_breaks_them(tmp_path):
    app = App(outdir=str(tmp_path))
    s3.Bucket(Stack(app, "Careless"), "Open")
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    with pytest.raises(RuntimeError, match=r"server access logs disabled(.|\n)*AwsSolutions-S1"):
        app.synth()


def test_every_acknowledgement_names_one_finding_and_its_reason(stage):
    given = {
        (rule, reason)
        for path in stage.folder.glob("*.metadata.json")
        for entries in json.loads(path.read_text()).values()
        for entry in entries
        if entry["type"] == "aws:cdk:acknowledged-rules"
        for rule, reason in entry["data"].items()
    }
    assert len(given) > 10
    for rule, reason in given:
        assert len(reason.split()) >= 5, rule
        assert "IAM5" not in rule or "[" in rule  # one permission, not all of a role's


def test_the_app_itself_needs_no_account_and_no_network(tmp_path):
    """As the CDK command line calls it, in an environment that names neither, with every way out closed."""
    closed = {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    context = json.dumps({**CONTEXT, "gavel:bundle": "false", "stage": "prod"})
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    env = {**kept, **closed, "CDK_CONTEXT_JSON": context, "CDK_OUTDIR": str(tmp_path)}
    subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=env, check=True, capture_output=True)
    names = sorted(path.name.removesuffix(".template.json") for path in tmp_path.glob("*.template.json"))
    assert names == ["Gavel-prod-Batch", "Gavel-prod-Monitoring", "Gavel-prod-Serving", "Gavel-prod-Storage"]


def test_the_role_of_a_machine_may_do_what_its_integrations_imply(stage):
    machines = stage.of_type("AWS::StepFunctions::StateMachine")
    assert len(machines) == 3
    for machine in machines.values():
        role = machine["Properties"]["RoleArn"]["Fn::GetAtt"][0]
        allowed = {
            action
            for policy in stage.properties("AWS::IAM::Policy")
            if {"Ref": role} in policy["Roles"]
            for statement in policy["PolicyDocument"]["Statement"]
            for action in as_list(statement["Action"])
        }
        text = "".join(part if isinstance(part, str) else "x" for part in machine["Properties"]["DefinitionString"]["Fn::Join"][1])
        called = set(re.findall(r':states:::([^"]+)"', text))
        assert called
        assert not {(name, action) for name in called for action in IMPLIED[name] - allowed}
