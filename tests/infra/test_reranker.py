"""The re-rank endpoint: there once a re-ranker is published, and replaced with a way back."""

import json
import os
import subprocess
import sys

import cfnlint.api
import pytest
from conftest import CONTEXT, ROOT, Synthesised, synthesise

from gavel.workspace.cdk_context import name_reranker, read_context
from processing.reranker_endpoint import inference
from processing.reranker_endpoint.packing import SCRIPT

KEY = "rerankers/r1/model.tar.gz"
RERANKER = {**CONTEXT["stages"]["prod"]["reranker"], "model_key": KEY}


@pytest.fixture(scope="module")
def reranked(tmp_path_factory) -> Synthesised:
    """prod after a re-ranker was published."""
    return synthesise("prod", tmp_path_factory.mktemp("reranked"), KEY)


def test_a_stage_deploys_without_an_endpoint_until_a_re_ranker_is_published(stage):
    for kind in ("Model", "EndpointConfig", "Endpoint"):
        assert stage.of_type(f"AWS::SageMaker::{kind}") == {}


def test_the_endpoint_serves_the_artefact_without_a_network(reranked):
    (model,) = reranked.properties("AWS::SageMaker::Model")
    assert model["EnableNetworkIsolation"]
    assert str(model["PrimaryContainer"]["ModelDataUrl"]).count(KEY) == 1
    (config,) = reranked.properties("AWS::SageMaker::EndpointConfig")
    (variant,) = config["ProductionVariants"]
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.c7i.large", 2)


def test_prod_keeps_a_share_of_requests_and_answers(reranked):
    (config,) = reranked.properties("AWS::SageMaker::EndpointConfig")
    capture = config["DataCaptureConfig"]
    assert capture["EnableCapture"]
    assert [option["CaptureMode"] for option in capture["CaptureOptions"]] == ["Input", "Output"]


def test_a_new_artefact_goes_back_when_an_alarm_rings(reranked):
    (endpoint,) = reranked.properties("AWS::SageMaker::Endpoint")
    guards = endpoint["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    alarms = reranked.of_type("AWS::CloudWatch::Alarm")
    assert len(guards) == 2
    assert all(guard["AlarmName"]["Ref"] in alarms for guard in guards)
    traffic = endpoint["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert (traffic["Type"], traffic["CanarySize"]["Value"]) == ("CANARY", 10)


def test_the_container_is_pointed_at_the_script_in_the_archive(reranked):
    (model,) = reranked.properties("AWS::SageMaker::Model")
    environment = model["PrimaryContainer"]["Environment"]
    folder, script = environment["SAGEMAKER_SUBMIT_DIRECTORY"], environment["SAGEMAKER_PROGRAM"]
    assert f"{folder}/{script}" == f"/opt/ml/model/{SCRIPT}"  # where SageMaker unpacks model.tar.gz
    assert environment["SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"] == inference.CSV


def test_one_instance_is_replaced_whole(tmp_path):
    alone = synthesise("dev", tmp_path, reranker={**RERANKER, "instances": 1})
    (endpoint,) = alone.properties("AWS::SageMaker::Endpoint")
    traffic = endpoint["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert traffic["Type"] == "ALL_AT_ONCE"
    assert "CanarySize" not in traffic


def test_a_plain_deploy_of_either_stage_serves_the_re_ranker_that_was_published(tmp_path):
    """The app runs as the CDK's command line runs it, with the context file that `gavel aws publish-ranker` writes."""
    name_reranker("dev", KEY, tmp_path / "cdk.context.json")
    context = {**CONTEXT, **read_context(tmp_path / "cdk.context.json"), "gavel:bundle": "false", "stage": "dev"}
    env = {**os.environ, "CDK_CONTEXT_JSON": json.dumps(context), "CDK_OUTDIR": str(tmp_path / "out")}
    subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=env, check=True, capture_output=True)
    template = json.loads((tmp_path / "out" / "Gavel-dev-Serving.template.json").read_text())
    kinds = {resource["Type"] for resource in template["Resources"].values()}
    assert {"AWS::SageMaker::Model", "AWS::SageMaker::EndpointConfig", "AWS::SageMaker::Endpoint"} <= kinds
    assert "RerankerEndpoint" in template["Outputs"]


def test_the_query_function_is_told_of_the_endpoint_by_name(reranked, stage):
    def told(synthesised):
        functions = {f["Handler"]: f["Environment"]["Variables"] for f in synthesised.properties("AWS::Lambda::Function")}
        return functions["lambdas.query_api.handler.handler"]["GAVEL_RANKER_ENDPOINT"]

    (endpoint,) = reranked.properties("AWS::SageMaker::Endpoint")
    assert told(reranked) == endpoint["EndpointName"] == "gavel-prod-reranker"
    assert told(stage) == ""


def test_the_endpoint_grows_with_its_requests_within_the_stages_bounds(reranked):
    (target,) = reranked.properties("AWS::ApplicationAutoScaling::ScalableTarget")
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 6)
    (policy,) = reranked.properties("AWS::ApplicationAutoScaling::ScalingPolicy")
    tracked = policy["TargetTrackingScalingPolicyConfiguration"]["PredefinedMetricSpecification"]["PredefinedMetricType"]
    assert tracked == "SageMakerVariantInvocationsPerInstance"


def test_the_query_function_may_ask_this_endpoint_and_has_a_way_to_it(reranked):
    statements = [s for p in reranked.properties("AWS::IAM::Policy") for s in p["PolicyDocument"]["Statement"]]
    (invoke,) = [s for s in statements if s["Action"] == "sagemaker:InvokeEndpoint"]
    assert invoke["Resource"]["Ref"].startswith("RerankerEndpoint")
    services = [json.dumps(e["ServiceName"]) for e in reranked.properties("AWS::EC2::VPCEndpoint")]
    assert len([service for service in services if "sagemaker.runtime" in service]) == 1


def test_cfn_lint_finds_nothing_in_a_stage_with_a_reranker(reranked):
    for path in reranked.folder.glob("*.template.json"):
        found = cfnlint.api.lint(path.read_text(), cfnlint.api.ManualArgs(regions=["eu-west-1"]))
        assert [str(match) for match in found if match.rule.id != "W3005"] == []
