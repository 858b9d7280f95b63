"""What the stages cost, by their own templates; docs/cost.md says the same."""

import re

import pytest
from conftest import ROOT, synthesise

from gavel.cost.bill import make_bill
from gavel.cost.charges import Usage
from gavel.cost.price_table import load_prices
from gavel.cost.stage_templates import read_templates

MOST_IDLE_DEV_USD = 120
MOST_NIGHT_USD = 0.50
USUAL = Usage(items_per_night=100_000, queries_per_month=10e6)


def bill_of(stage, usage=USUAL):
    return make_bill(read_templates(stage.folder), load_prices(), usage)


def test_every_resource_of_a_stage_has_a_price_or_is_free_for_a_reason(stage):
    bill = bill_of(stage)
    assert [f"{resource.logical_id}: {why}" for resource, why in bill.unpriced] == []
    billed = {line.resource.logical_id for line in bill.lines}
    assert len(billed) + bill.free == len(read_templates(stage.folder))


def with_reranker(name, folder):
    """A stage as it is deployed once a re-ranker is published."""
    return synthesise(name, folder, published_reranker="rerankers/a/model.tar.gz")


@pytest.mark.parametrize(("name", "instance"), [("dev", "ml.t2.medium"), ("prod", "ml.c7i.large")])
def test_a_re_ranker_is_priced_with_the_way_to_it(name, instance, tmp_path):
    bill = bill_of(with_reranker(name, tmp_path))
    assert bill.unpriced == []
    assert {f"sagemaker.{instance}", "vpc.interface_endpoint"} <= {line.charge.price.name for line in bill.lines}


def test_dev_waits_for_less_than_its_goal_a_month_with_a_re_ranker_too(dev, tmp_path):
    for stage in (dev, with_reranker("dev", tmp_path)):
        assert 20 < bill_of(stage, Usage(0, 0)).usd("idle", "night", "kept", "queries") <= MOST_IDLE_DEV_USD


def test_a_night_of_dev_is_within_the_goal(dev):
    assert 0.1 < bill_of(dev).night_usd <= MOST_NIGHT_USD


def test_a_night_of_prod_is_within_the_goal_on_every_type_but_its_last_p3(prod):
    """V100s are asked for only where nothing else is to be had; they cost more than the goal allows."""
    bill = bill_of(prod)
    *others, last = prod.stage.instance_ladder
    rest = bill.night_usd - bill.rungs[others[0]]
    assert bill.night_usd <= MOST_NIGHT_USD
    assert last == "ml.p3.2xlarge"
    assert bill.rungs[last] + rest > MOST_NIGHT_USD
    assert all(bill.rungs[instance] + rest <= MOST_NIGHT_USD for instance in others)


@pytest.mark.parametrize("reranked", [False, True], ids=["", "reranked"])
@pytest.mark.parametrize("name", ["dev", "prod"])
def test_the_documented_totals_are_those_of_the_templates(name, reranked, request, tmp_path):
    text = (ROOT / "docs" / "cost.md").read_text()
    bill = bill_of(with_reranker(name, tmp_path) if reranked else request.getfixturevalue(name))
    label = f"{name}, re-ranker published" if reranked else name
    row = re.search(rf"^\| {label} \| (.*) \|$", text, re.MULTILINE)
    assert row, f"docs/cost.md has no row of {label}"
    shown = [float(cell.strip().strip("$")) for cell in row[1].split("|")]
    counted = [*(bill.usd(when) for when in ("idle", "night", "kept", "queries")), bill.night_usd]
    assert shown == pytest.approx(counted, rel=0.05)  # an alarm more is no news
