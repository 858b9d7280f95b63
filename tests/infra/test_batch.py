"""The nightly run, as it is deployed; tests/aws/test_nights.py runs its machines."""

import json

from botocore.session import Session
from botocore.validate import ParamValidator
from conftest import CONTEXT, ROOT

from infra.embedding_job import Places, job_parameters
from infra.nightly_states import NOT_TO_BE_HAD, embed_day

ROLE = "arn:aws:iam::111111111111:role/job"
PLACES = Places("new-items", "embeddings", "towers", "releases", "s3://assets/code.zip", ROLE, "image", "topic", "aws")


def test_the_schedules_of_the_stage_start_the_machine_that_finds_the_day(stage):
    schedules = stage.properties("AWS::Scheduler::Schedule")
    assert [schedule["ScheduleExpression"] for schedule in schedules] == stage.stage.schedules
    for schedule in schedules:
        assert schedule["Target"]["Arn"]["Ref"].startswith("NightlyBatchFindDay")
        assert json.loads(schedule["Target"]["Input"]) == {"scheduled_time": "<aws.scheduler.scheduled-time>"}


def test_the_schedules_run_at_night(dev, prod):
    assert dev.stage.schedules == ["cron(0 2 * * ? *)"]
    assert prod.stage.schedules == ["cron(0 1 * * ? *)", "cron(0 5 * * ? *)"]


def test_a_start_that_cannot_be_delivered_is_kept(stage):
    queues = stage.of_type("AWS::SQS::Queue")
    for schedule in stage.properties("AWS::Scheduler::Schedule"):
        assert schedule["Target"]["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0] in queues
        assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] > 0


def test_the_machines_log_everything_and_are_traced(stage):
    machines = stage.properties("AWS::StepFunctions::StateMachine")
    assert len(machines) == 2
    for machine in machines:
        assert machine["LoggingConfiguration"]["Level"] == "ALL"
        assert machine["TracingConfiguration"] == {"Enabled": True}


def test_every_type_of_the_ladder_has_its_rung(stage):
    definition = embed_day(PLACES, stage.stage.instance_ladder, 1, 2)
    rungs = [state["Comment"] for name, state in definition["States"].items() if name.startswith("Embed")]
    assert rungs == stage.stage.instance_ladder


def test_prod_tries_p3_first_then_g5_and_g6():
    ladder = CONTEXT["stages"]["prod"]["instance_ladder"]
    assert ladder[0] == "ml.p3.2xlarge"
    assert [kind.split(".")[1] for kind in ladder[1:3]] == ["g5", "g6"]


def test_every_task_is_tried_again_and_ends_in_a_report():
    states = embed_day(PLACES, ["ml.g5.xlarge"], 1, 2)["States"]
    for name, state in states.items():
        if state["Type"] == "Task":
            assert all(retry["BackoffRate"] >= 1 for retry in state["Retry"]), name
            if not name.startswith("Tell"):
                assert state["Catch"][0]["ErrorEquals"] == ["States.ALL"], name


def test_the_night_as_a_whole_and_each_job_have_an_end():
    definition = embed_day(PLACES, ["ml.g5.xlarge", "ml.g6.xlarge"], 1, 2)
    rung = definition["States"]["Embed0"]
    assert rung["Parameters"]["StoppingCondition"] == {"MaxRuntimeInSeconds": 7200}
    assert rung["TimeoutSeconds"] > 7200
    assert definition["TimeoutSeconds"] > 2 * 7200


def test_several_instances_are_given_all_files_and_must_leave_a_manifest_each():
    states = embed_day(PLACES, ["ml.g5.xlarge"], 3, 2)["States"]
    job = states["Embed0"]["Parameters"]
    assert job["ProcessingResources"]["ClusterConfig"]["InstanceCount"] == 3
    assert {i["S3Input"]["S3DataDistributionType"] for i in job["ProcessingInputs"]} == {"FullyReplicated"}
    assert states["AllInstances"]["Choices"][0]["NumericGreaterThanEquals"] == 3


def test_only_words_about_instances_lead_to_the_next_rung():
    states = embed_day(PLACES, ["ml.g5.xlarge", "ml.g6.xlarge"], 1, 2)["States"]
    conditions = states["Why0"]["Choices"][0]["Or"]
    assert {c["StringMatches"] for c in conditions} >= set(NOT_TO_BE_HAD)
    assert states["Why0"]["Default"] == "TellFailure"
    assert states["Embed1"]["Catch"][0]["Next"] == "TellFailure"


def test_the_job_may_be_handed_to_sagemaker_alone(stage):
    passed = [
        statement
        for policy in stage.properties("AWS::IAM::Policy")
        for statement in policy["PolicyDocument"]["Statement"]
        if "iam:PassRole" in statement["Action"]
    ]
    assert len(passed) == 1
    assert passed[0]["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    assert passed[0]["Resource"]["Fn::GetAtt"][0].startswith("NightlyBatchJobRole")


def test_the_jobs_code_is_our_rooms_and_nothing_else(dev):
    bundles = [folder for folder in dev.folder.glob("asset.*") if (folder / "processing").is_dir()]
    assert len(bundles) == 1
    assert {path.name for path in bundles[0].iterdir()} == {"catalog", "models", "processing", "retrieval"}
    assert (bundles[0] / "processing" / "embed_items.py").is_file()


def test_the_job_installs_the_versions_that_the_tests_ran():
    lines = (ROOT / "processing" / "requirements.txt").read_text().splitlines()
    pinned = (ROOT / "requirements.txt").read_text()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert all(pin in pinned for pin in pins)
    assert not any(pin.startswith("torch") for pin in pins)


def test_sagemaker_takes_the_parameters_of_the_job():
    """Against the API's own model, with a word in the place of what is filled in at night."""

    def filled(value):
        if isinstance(value, dict):
            return {k.removesuffix(".$"): ["word"] if k == "ContainerArguments.$" else filled(v) for k, v in value.items()}
        return [filled(v) for v in value] if isinstance(value, list) else value

    api = Session().get_service_model("sagemaker").operation_model("CreateProcessingJob").input_shape
    report = ParamValidator().validate(filled(job_parameters(PLACES, "ml.g5.xlarge", 1, 2)), api)
    assert report.generate_report() == ""
