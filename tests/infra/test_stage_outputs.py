"""Outputs keep their names: `gavel aws` and people look them up."""

import pytest

STORAGE = {"NewItemsBucket", "EmbeddingsBucket", "TowersBucket", "ReleasesBucket", "EventsBucket", "ArrivalsDeadLetters"}
SERVING = {
    "ApiUrl",
    "ApiKeyId",
    "SearchFunction",
    "BulkIndexerFunction",
    "EventsStream",
    "StatesQueue",
    "StatesDeadLetters",
    "StatesFunction",
    "SnapshotFunction",
    "IndexReader",
    "IndexOperator",
}
BATCH = {
    "JobRole",
    "TrainingRole",
    "ProcessingImage",
    "CodeUri",
    "NoticesTopic",
    "FindDayMachine",
    "EmbedDayMachine",
}


@pytest.mark.parametrize(("stack", "names"), [("Storage", STORAGE), ("Serving", SERVING), ("Batch", BATCH)])
def test_a_stack_says_where_its_things_are(stage, stack, names):
    assert names <= stage.templates[stack]["Outputs"].keys()


def test_the_search_function_is_named_by_its_alias(stage):
    value = stage.templates["Serving"]["Outputs"]["SearchFunction"]["Value"]
    assert stage.of_type("AWS::Lambda::Alias")[value["Ref"]]["Properties"]["Name"] == "live"


def test_the_machines_of_the_outputs_are_those_of_the_stage(stage):
    outputs = stage.templates["Batch"]["Outputs"]
    named = {outputs[name]["Value"]["Ref"] for name in ("FindDayMachine", "EmbedDayMachine")}
    assert named <= stage.of_type("AWS::StepFunctions::StateMachine").keys()


def test_training_may_write_towers_and_the_nights_job_may_not(stage):
    def writes(role):
        policies = [p for p in stage.properties("AWS::IAM::Policy") if any(role in r["Ref"] for r in p["Roles"])]
        statements = [s for p in policies for s in p["PolicyDocument"]["Statement"]]
        return [str(s["Resource"]) for s in statements if "s3:PutObject" in s["Action"]]

    assert ["Towers" in written for written in writes("TrainingRole")] == [True]
    assert not any("Towers" in written for written in writes("NightlyBatchJobRole"))
