"""The bill of a stage: arithmetic on small templates, and nothing passed over in silence."""

import json
import sys

import pytest

from gavel.cli import cost as cost_command
from gavel.cost import stage_templates
from gavel.cost.bill import make_bill
from gavel.cost.charges import HOURS, NIGHTS, Usage
from gavel.cost.price_table import load_prices
from gavel.cost.stage_templates import Resource, read_templates, synthesise
from retrieval.errors import InvalidInput, MissingPrerequisite

TABLE = load_prices()
DOMAIN = {
    "ClusterConfig": {"InstanceType": "t3.small.search", "InstanceCount": 2, "DedicatedMasterEnabled": False},
    "EBSOptions": {"VolumeType": "gp3", "VolumeSize": 10},
}


def resource(kind, logical_id="Thing", **properties):
    return Resource("Stack", logical_id, kind, properties)


def bill_of(*resources, items=0.0, queries=0.0, rate=None):
    return make_bill(resources, TABLE, Usage(items, queries, rate))


def job(instance, instances=1):
    cluster = {"InstanceType": instance, "InstanceCount": instances, "VolumeSizeInGB": 100}
    parameters = {"ProcessingResources": {"ClusterConfig": cluster}}
    return {"Type": "Task", "Resource": "arn:aws:states:::sagemaker:createProcessingJob.sync", "Parameters": parameters}


def machine(logical_id, *states):
    definition = json.dumps({"States": {f"S{number}": state for number, state in enumerate(states)}})
    return resource("AWS::StepFunctions::StateMachine", logical_id, DefinitionString=definition)


def night(*jobs):
    """A schedule, the machine that it starts, and the machine that this one starts."""
    start = {"Type": "Task", "Resource": "arn:aws:states:::states:startExecution", "Parameters": {"StateMachineArn": "Embed"}}
    schedule = resource("AWS::Scheduler::Schedule", Target={"Arn": {"Ref": "Find"}})
    return schedule, machine("Find", start), machine("Embed", *jobs)


def test_a_domain_is_nodes_by_hours_and_storage_by_nodes():
    bill = bill_of(resource("AWS::OpenSearchService::Domain", **DOMAIN))
    assert [line.charge.quantity for line in bill.lines] == [2 * HOURS, 20]
    assert bill.usd("idle") == pytest.approx(2 * 730 * 0.036 + 20 * 0.122)


def test_queries_cost_requests_and_time():
    query = resource("AWS::Lambda::Function", Handler="lambdas.query_api.handler.handler", MemorySize=2048)
    bill = bill_of(query, queries=1e6)
    assert bill.usd("queries") == pytest.approx(1e6 * 2e-7 + 1e6 * 2 * 0.080 * 1.66667e-5)
    assert bill.usd("idle") == 0


def test_the_snapshots_of_two_published_versions_cost_though_nobody_comes():
    query = resource("AWS::Lambda::Function", "Query", MemorySize=1024, SnapStart={"ApplyOn": "PublishedVersions"})
    version = resource("AWS::Lambda::Version", FunctionName={"Ref": "Query"})
    assert bill_of(query, version).usd("idle") == pytest.approx(2 * HOURS * 3600 * 1.5046e-6)


def test_a_night_is_the_hours_of_its_first_rung():
    bill = bill_of(*night(job("ml.g5.xlarge"), job("ml.g6.xlarge")), items=36_000, rate=100)
    hours = 36_000 / 100 / 3600 + TABLE.number("job_start_s") / 3600
    by_name = {line.charge.price.name: line.charge.quantity for line in bill.lines if line.charge.when == "night"}
    assert by_name["sagemaker.ml.g5.xlarge"] == pytest.approx(hours * NIGHTS)
    assert bill.rungs == pytest.approx({"ml.g5.xlarge": hours * 1.408, "ml.g6.xlarge": hours * 1.127})
    assert bill.night_usd == pytest.approx(hours * 1.408 + hours * 100 / HOURS * 0.14 + 2 * 2.5e-5)


def test_instances_that_share_a_night_share_its_lots_and_start_each():
    one = bill_of(*night(job("ml.g5.xlarge")), items=1e6).rungs["ml.g5.xlarge"]
    two = bill_of(*night(job("ml.g5.xlarge", 2)), items=1e6).rungs["ml.g5.xlarge"]
    assert two - one == pytest.approx(TABLE.number("job_start_s") / 3600 * 1.408)


def test_a_night_without_items_starts_no_job():
    bill = bill_of(*night(job("ml.g5.xlarge")))
    assert bill.usd("night") == 0
    assert bill.usd("idle") > 0  # the machine that looks for the day's file


def test_a_machine_that_no_schedule_starts_is_a_line_of_nothing():
    bill = bill_of(machine("Rebuild", job("ml.g5.xlarge")), items=1000)
    assert [line.charge.what for line in bill.lines] == ["no schedule starts it"]
    assert bill.usd("night") == 0


def test_a_definition_that_cannot_be_read_is_named():
    with pytest.raises(InvalidInput, match="definition of Stack Broken cannot be read"):
        bill_of(resource("AWS::StepFunctions::StateMachine", "Broken", DefinitionString="{"))


def test_objects_that_expire_are_paid_until_their_old_version_expires_too():
    rules = [{"ExpirationInDays": 30, "NoncurrentVersionExpiration": {"NoncurrentDays": 30}}]
    bucket = resource("AWS::S3::Bucket", "ItemStoreEmbeddings1", LifecycleConfiguration={"Rules": rules})
    line = bill_of(bucket, items=1e6).lines[0]
    assert line.charge.quantity == pytest.approx(60 * 1e6 * TABLE.use_of("buckets", "ItemStoreEmbeddings1")["bytes_per_item"] / 1e9)


def test_an_interface_endpoint_costs_in_every_zone_and_a_gateway_nothing():
    interface = resource("AWS::EC2::VPCEndpoint", VpcEndpointType="Interface", SubnetIds=["a", "b", "c"])
    assert bill_of(interface).usd("idle") == pytest.approx(3 * 730 * 0.01)
    assert bill_of(resource("AWS::EC2::VPCEndpoint", VpcEndpointType="Gateway")).usd("idle") == 0


def test_an_alarm_costs_by_the_metrics_that_it_watches():
    formula = [{"Expression": "a + b"}, {"MetricStat": {}}, {"MetricStat": {}}]
    assert bill_of(resource("AWS::CloudWatch::Alarm", Metrics=formula)).usd("idle") == pytest.approx(0.2)


def test_the_instances_of_an_endpoint_run_all_month():
    variants = [{"InitialInstanceCount": 2, "InstanceType": "ml.m5.large"}]
    assert bill_of(resource("AWS::SageMaker::EndpointConfig", ProductionVariants=variants)).usd("idle") == pytest.approx(
        2 * 730 * 0.115
    )


@pytest.mark.parametrize(
    ("unknown", "why"),
    [
        (resource("AWS::Neptune::DBCluster"), "AWS::Neptune::DBCluster has no price and is not among the free types"),
        (
            resource("AWS::SageMaker::EndpointConfig", ProductionVariants=[{"InitialInstanceCount": 1, "InstanceType": "ml.x"}]),
            "no price 'sagemaker.ml.x'",
        ),
    ],
)
def test_what_has_no_price_is_named_and_never_passed_over(unknown, why):
    bill = bill_of(unknown)
    assert [(r, why in said) for r, said in bill.unpriced] == [(unknown, True)]


def test_custom_resources_are_free_whatever_their_name():
    bill = bill_of(resource("Custom::Anything"))
    assert (bill.free, bill.unpriced) == (1, [])


def test_a_type_without_an_assumed_throughput_asks_for_one():
    unpriced = bill_of(*night(job("ml.p4d.24xlarge")), items=1000).unpriced
    assert "--items-per-second" in unpriced[0][1]


def test_every_price_says_where_and_when_it_was_seen():
    assert len(TABLE.prices) > 30
    for price in TABLE.prices.values():
        assert price.usd >= 0
        assert len(price.source) > 20
        assert price.seen >= "2025"


def test_the_command_prints_the_bill_and_fails_when_something_has_no_price(tmp_path, capsys):
    template = {
        "Resources": {"Index": {"Type": "AWS::OpenSearchService::Domain", "Properties": DOMAIN}, "Odd": {"Type": "A::B::C"}}
    }
    (tmp_path / "One.template.json").write_text(json.dumps(template))
    with pytest.raises(cost_command.typer.Exit):
        cost_command.cost(stage="dev", items_per_night=0, queries_per_month=0, templates=tmp_path, as_json=True)
    said = capsys.readouterr()
    made = json.loads(said.out)
    assert made["usd_month"]["total"] == pytest.approx(55.0)
    assert made["unpriced"][0]["resource"] == "Odd"
    assert "Odd: A::B::C has no price" in said.err


def test_a_folder_without_templates_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="make synth"):
        read_templates(tmp_path)


def test_a_stage_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"no stage 'test'; it has dev, prod"):
        synthesise("test", tmp_path)


def test_without_the_cdk_or_node_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(stage_templates.shutil, "which", lambda name: None)
    with pytest.raises(MissingPrerequisite, match=r"Node\.js|installed-dev"):
        synthesise("dev", tmp_path)
    monkeypatch.setitem(sys.modules, "aws_cdk", None)
    monkeypatch.setattr(stage_templates.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPrerequisite, match=r"make \.venv/installed-dev"):
        synthesise("dev", tmp_path)
