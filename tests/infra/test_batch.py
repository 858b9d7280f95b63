"""The nightly run, as it is deployed; tests/aws/test_nights.py runs its machines."""

import json
import re

from botocore.session import Session
from botocore.validate import ParamValidator
from conftest import CONTEXT, ROOT
from job_places import places

from infra.embedding_job import JobSize, job_parameters
from infra.item_store import DELIVERIES, VISIBILITY
from infra.nightly_batch import ARRIVALS
from infra.nightly_states import MARKER, embed_day, find_day
from infra.python_asset import PYTHON_VERSION
from infra.rebuild_states import rebuild
from infra.release_states import NOT_TO_BE_HAD, UNTIL_INDEXED_S
from processing.check_accelerator import GPU_TYPE

PLACES = places()
ONE = JobSize(["ml.g5.xlarge"], 1, 2)
LADDER = JobSize(["ml.g5.xlarge", "ml.g6.xlarge"], 1, 2)


def test_the_schedules_of_the_stage_start_the_machine_that_finds_the_day(stage):
    schedules = stage.properties("AWS::Scheduler::Schedule")
    assert [schedule["ScheduleExpression"] for schedule in schedules] == stage.stage.schedules
    for schedule in schedules:
        assert schedule["Target"]["Arn"]["Ref"].startswith("NightlyBatchFindDay")
        assert json.loads(schedule["Target"]["Input"]) == {"scheduled_time": "<aws.scheduler.scheduled-time>"}


def thrown_away(states):
    """The states whose result is not kept."""
    return {name for name, state in states.items() if "ResultPath" in state and state["ResultPath"] is None}


def test_what_a_state_throws_away_stays_thrown_away_in_the_template(stage):
    """A null that synthesis dropped would put a result in the place of the state's input."""
    size = JobSize(stage.stage.instance_ladder, 1, 2)
    plain = {"FindDay": find_day(PLACES, "arn"), "EmbedDay": embed_day(PLACES, size), "Rebuild": rebuild(PLACES, size, "arn")}
    for name, definition in plain.items():
        (machine,) = [
            resource["Properties"]
            for logical_id, resource in stage.of_type("AWS::StepFunctions::StateMachine").items()
            if name in logical_id
        ]
        parts = machine["DefinitionString"]["Fn::Join"][1]
        deployed = json.loads("".join(part if isinstance(part, str) else "x" for part in parts))["States"]
        assert thrown_away(deployed) == thrown_away(definition["States"]) != set()


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
    assert len(machines) == 3
    for machine in machines:
        assert machine["LoggingConfiguration"]["Level"] == "ALL"
        assert machine["TracingConfiguration"] == {"Enabled": True}


def test_every_type_of_the_ladder_has_its_rung(stage):
    definition = embed_day(PLACES, JobSize(stage.stage.instance_ladder, 1, 2))
    rungs = [state["Comment"] for name, state in definition["States"].items() if name.startswith("Embed")]
    assert rungs == stage.stage.instance_ladder


def test_prod_tries_gpus_with_bfloat16_first_and_the_v100_last():
    families = [kind.split(".")[1] for kind in CONTEXT["stages"]["prod"]["instance_ladder"]]
    assert families == ["g5", "g6", "g4dn", "p3"]


def test_the_last_rung_of_dev_is_a_cpu_which_accounts_without_quota_for_gpus_have():
    *gpus, last = CONTEXT["stages"]["dev"]["instance_ladder"]
    assert [bool(GPU_TYPE.match(kind)) for kind in (*gpus, last)] == [True, True, False]


def test_the_entry_of_the_job_fits_into_a_word_and_leads_through_the_script_that_prepares_the_container():
    *shell, script, _ = job_parameters(PLACES, "ml.g5.xlarge", ONE)["AppSpecification"]["ContainerEntrypoint"]
    assert shell == ["bash", "-ec"]
    assert script.endswith('exec bash processing/job_container.sh python -m processing.embed_items "$@"')
    assert len(script) <= 256
    assert (ROOT / "processing" / "job_container.sh").is_file()


def test_every_task_is_tried_again_and_its_failure_is_told():
    for definition in (embed_day(PLACES, ONE), rebuild(PLACES, ONE, "find-day")):
        for name, state in definition["States"].items():
            if state["Type"] == "Task":
                assert all(retry["BackoffRate"] >= 1 for retry in state["Retry"]), name
                if not name.startswith("Tell"):
                    assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"], name


def test_the_night_as_a_whole_and_each_job_have_an_end():
    definition = embed_day(PLACES, LADDER)
    rung = definition["States"]["Embed0"]
    assert rung["Parameters"]["StoppingCondition"] == {"MaxRuntimeInSeconds": 7200}
    assert rung["TimeoutSeconds"] > 7200
    assert definition["TimeoutSeconds"] > 2 * 7200


def test_several_instances_are_given_all_files_and_must_leave_a_manifest_each():
    states = embed_day(PLACES, JobSize(["ml.g5.xlarge"], 3, 2))["States"]
    job = states["Embed0"]["Parameters"]
    assert job["ProcessingResources"]["ClusterConfig"]["InstanceCount"] == 3
    assert {i["S3Input"]["S3DataDistributionType"] for i in job["ProcessingInputs"]} == {"FullyReplicated"}
    assert states["AllInstances"]["Choices"][0]["NumericGreaterThanEquals"] == 3


def test_only_words_about_instances_lead_to_the_next_rung():
    states = embed_day(PLACES, LADDER)["States"]
    to_next = [choice for choice in states["Why0"]["Choices"] if choice["Next"] == "Embed1"]
    assert {c["StringMatches"] for choice in to_next for c in choice["Or"]} >= set(NOT_TO_BE_HAD)
    assert {states[why]["Default"] for why in ("Why0", "Why1")} == {"TellFailure"}
    assert {choice["Next"] for choice in states["Why1"]["Choices"]} == {"Throttled1"}, "no type follows the last one"


def test_the_job_may_be_handed_to_sagemaker_alone(stage):
    passed = [
        statement
        for policy in stage.properties("AWS::IAM::Policy")
        for statement in policy["PolicyDocument"]["Statement"]
        if "iam:PassRole" in statement["Action"]
    ]
    assert len(passed) == 2  # of the machine that embeds a day, and of the one that embeds all
    for statement in passed:
        assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
        assert statement["Resource"]["Fn::GetAtt"][0].startswith("NightlyBatchJobRole")


def arrivals(stage):
    (rule,) = [
        rule for rule in stage.properties("AWS::Events::Rule") if "EventPattern" in rule and "ItemStates" not in json.dumps(rule)
    ]
    return rule


def test_a_file_that_arrives_starts_the_machine_that_finds_the_day(stage):
    pattern = arrivals(stage)["EventPattern"]
    assert (pattern["source"], pattern["detail-type"]) == (["aws.s3"], ["Object Created"])
    assert pattern["detail"]["object"]["key"] == [{"wildcard": wildcard} for wildcard in ARRIVALS]
    assert "NewItems" in json.dumps(pattern["detail"]["bucket"])
    (target,) = arrivals(stage)["Targets"]
    assert target["Arn"]["Ref"].startswith("NightlyBatchFindDay")
    told = target["InputTransformer"]
    assert sorted(told["InputPathsMap"].values()) == ["$.detail.object.key", "$.time"]
    assert all(f'"{name}":<' in told["InputTemplate"] for name in ("key", "time"))


def test_an_arrival_that_cannot_be_delivered_is_kept(stage):
    (target,) = arrivals(stage)["Targets"]
    assert target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0].startswith("NightlyBatchDeadLetters")
    assert target["RetryPolicy"] == {"MaximumEventAgeInSeconds": 3600, "MaximumRetryAttempts": 10}


def test_files_and_markers_of_days_pass_the_rule_and_photos_do_not():
    patterns = [re.compile(re.escape(wildcard).replace(r"\*", ".*")) for wildcard in ARRIVALS]

    def passes(key):
        return any(pattern.fullmatch(key) for pattern in patterns)

    assert passes("2026-11-21.parquet")
    assert passes(f"2026-11-21/{MARKER}")
    assert not any(passes(key) for key in ("2026-11-21/photos/1.jpg", "photos/2026.parquet", "2026-11-21/part-0.csv"))


def test_the_machine_may_start_the_other_one_and_no_third(stage):
    (role,) = [role for role in stage.of_type("AWS::IAM::Policy") if role.startswith("NightlyBatchFindDayRole")]
    statements = stage.of_type("AWS::IAM::Policy")[role]["Properties"]["PolicyDocument"]["Statement"]
    started = [statement["Resource"]["Ref"] for statement in statements if statement["Action"] == "states:StartExecution"]
    assert [name.startswith("NightlyBatchEmbedDay") for name in started] == [True]


def test_only_a_rebuild_may_change_the_current_tower(stage):
    writers = [
        logical_id
        for logical_id, policy in stage.of_type("AWS::IAM::Policy").items()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Action"] == "s3:PutObject" and "current.json" in json.dumps(statement["Resource"])
    ]
    assert [writer.startswith("RebuildRole") for writer in writers] == [True]


def test_a_rebuild_reads_the_whole_bucket_on_as_many_instances_as_the_stage_says(dev, prod):
    for stage, instances in ((dev, 1), (prod, 4)):
        size = JobSize(stage.stage.instance_ladder, stage.stage.rebuild_instance_count, stage.stage.rebuild_hours)
        states = rebuild(PLACES, size, "find-day")["States"]
        assert states["NameRelease"]["Parameters"]["items"] == ""
        job = states["Embed0"]["Parameters"]
        assert job["ProcessingResources"]["ClusterConfig"]["InstanceCount"] == instances
        assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": stage.stage.rebuild_hours * 3600}


def test_the_index_is_made_before_the_job_and_tried_again_while_the_function_is_busy():
    for definition in (embed_day(PLACES, ONE), rebuild(PLACES, ONE, "find-day")):
        made = definition["States"]["MakeIndex"]
        assert made["Parameters"]["FunctionName"] == "indexer"
        assert "Lambda.TooManyRequestsException" in made["Retry"][0]["ErrorEquals"]
        reset = definition["States"][made["Next"]]["Next"]
        assert definition["States"][reset]["Next"] == "Embed0"


def test_the_machines_call_functions_by_the_names_that_these_have(stage):
    names = [f["FunctionName"] for f in stage.properties("AWS::Lambda::Function") if "FunctionName" in f]
    machines = [json.dumps(m["DefinitionString"]) for m in stage.properties("AWS::StepFunctions::StateMachine")]
    called = {name: sum(f":function:{name}" in definition for definition in machines) for name in names}
    assert called == {f"gavel-{stage.stage.name}-bulk-indexer": 2, f"gavel-{stage.stage.name}-query-snapshot": 2}


def test_a_snapshot_is_renewed_when_the_alias_of_the_index_moved_and_its_failure_ends_nothing():
    for definition, following in ((embed_day(PLACES, ONE), "TellDone"), (rebuild(PLACES, ONE, "find-day"), "TellDone")):
        states = definition["States"]
        assert [choice["Next"] for choice in states["AliasMoved"]["Choices"]] == ["RenewSnapshot"]
        assert states["AliasMoved"]["Default"] == following
        assert states["RenewSnapshot"]["Catch"][-1]["Next"] == "TellStale"
        assert states["TellStale"]["Next"] == following


def test_a_machine_waits_for_a_release_at_least_as_long_as_the_queue_keeps_its_manifest():
    assert DELIVERIES * VISIBILITY.to_seconds() < UNTIL_INDEXED_S


def test_the_definitions_are_what_the_states_language_allows():
    """Every state is reached, and every state that is named is there."""
    for definition in (embed_day(PLACES, LADDER), find_day(PLACES, "embed"), rebuild(PLACES, LADDER, "find-day")):
        states = definition["States"]
        named = {definition["StartAt"]} | set(re.findall(r'"(?:Next|Default)": "(\w+)"', json.dumps(states)))
        inner = {name for s in states.values() if s["Type"] == "Map" for name in s["ItemProcessor"]["States"]}
        assert named - inner == set(states)


def test_the_jobs_code_is_our_rooms_and_nothing_else(dev):
    bundles = [folder for folder in dev.folder.glob("asset.*") if (folder / "processing").is_dir()]
    assert len(bundles) == 1
    assert {path.name for path in bundles[0].iterdir()} == {"catalog", "models", "processing", "retrieval"}
    assert (bundles[0] / "processing" / "embed_items.py").is_file()


def test_the_job_brings_the_versions_that_the_tests_ran():
    lines = (ROOT / "processing" / "requirements.txt").read_text().splitlines()
    pinned = (ROOT / "requirements.txt").read_text()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins
    assert all(pin in pinned for pin in pins)
    assert not any(pin.startswith("torch") for pin in pins)


def test_the_job_asks_no_package_index_and_has_no_network(stage):
    for machine in stage.of_type("AWS::StepFunctions::StateMachine").values():
        definition = json.dumps(machine["Properties"]["DefinitionString"])
        assert "pip" not in definition
        assert ("EnableNetworkIsolation" in definition) == ("createProcessingJob" in definition)
    network = job_parameters(PLACES, "ml.g5.xlarge", ONE)["NetworkConfig"]
    assert network["EnableNetworkIsolation"]


def test_the_packages_are_for_the_python_of_the_image(stage):
    assert f"-py{PYTHON_VERSION.replace('.', '')}-" in stage.stage.processing_image


def test_sagemaker_takes_the_parameters_of_the_job():
    """Against the API's own model, with a word in the place of what is filled in at night."""

    def filled(value):
        if isinstance(value, dict):
            return {k.removesuffix(".$"): ["word"] if k == "ContainerArguments.$" else filled(v) for k, v in value.items()}
        return [filled(v) for v in value] if isinstance(value, list) else value

    api = Session().get_service_model("sagemaker").operation_model("CreateProcessingJob").input_shape
    report = ParamValidator().validate(filled(job_parameters(PLACES, "ml.g5.xlarge", ONE)), api)
    assert report.generate_report() == ""
