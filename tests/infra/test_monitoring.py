"""Alarms ring somewhere, each has its place in the run book, and every dead-letter queue is watched."""

import json
import re

import pytest
from conftest import ROOT, synthesise
from test_reranker import RERANKER

from infra.event_stream import BUFFER_S
from infra.monitoring import MAX_FALLBACKS, NAMESPACE, SEARCH_STAGES
from lambdas.query_api import measurements
from retrieval.contracts.release import IndexedPart
from retrieval.ingestion import MIN_RECALL

RUN_BOOK = (ROOT / "docs" / "operations.md").read_text()
SECTIONS = {
    title: text.strip()
    for title, text in re.findall(r"^### (\S+)\n((?:(?!^#).*\n?)+)", RUN_BOOK.split("## Alarms")[1], re.MULTILINE)
}


def alarms(stage):
    return {a["AlarmName"].removeprefix(f"gavel-{stage.stage.name}-"): a for a in stage.properties("AWS::CloudWatch::Alarm")}


def topic_of(action):
    return json.dumps(action)


def test_every_alarm_tells_the_notices_topic(stage):
    assert len(alarms(stage)) >= 12
    for name, alarm in alarms(stage).items():
        assert len(alarm["AlarmActions"]) == 1, name
        assert "NightlyBatchNotices" in topic_of(alarm["AlarmActions"][0]), name


def test_the_topic_lets_alarms_and_budgets_of_this_account_in(stage):
    (policy,) = stage.properties("AWS::SNS::TopicPolicy")
    allowed = [s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Allow"]
    assert [s["Principal"] for s in allowed] == [{"Service": ["budgets.amazonaws.com", "cloudwatch.amazonaws.com"]}]
    assert allowed[0]["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}


def test_the_run_book_has_a_line_for_every_alarm_and_no_other(tmp_path):
    reranked = synthesise("prod", tmp_path, reranker=RERANKER)
    assert set(alarms(reranked)) == set(SECTIONS)
    assert all(len(text) > 80 for text in SECTIONS.values())
    for name, alarm in alarms(reranked).items():
        assert alarm["AlarmDescription"] == f"docs/operations.md#{name}"
        assert "NightlyBatchNotices" in topic_of(alarm["AlarmActions"])


def test_an_alarm_says_where_its_run_book_is(stage):
    for name, alarm in alarms(stage).items():
        assert alarm["AlarmDescription"] == f"docs/operations.md#{name}"


def test_every_dead_letter_queue_is_watched_from_the_first_message(stage):
    for name, queue in (
        ("dead-letters", "ItemStoreDeadLetters"),
        ("schedule-dead-letters", "NightlyBatchDeadLetters"),
        ("states-dead-letters", "ItemStatesDeadLetters"),
    ):
        alarm = alarms(stage)[name]
        assert (alarm["Threshold"], alarm["ComparisonOperator"]) == (1, "GreaterThanOrEqualToThreshold")
        assert queue in json.dumps(alarm["Dimensions"])


def test_silence_of_releases_rings_and_silence_of_errors_does_not(stage):
    age = alarms(stage)["release-age"]
    assert (age["TreatMissingData"], age["Period"] * age["EvaluationPeriods"]) == (
        "breaching",
        stage.stage.release_age_hours * 3600,
    )
    assert age["Period"] * age["EvaluationPeriods"] <= 7 * 24 * 3600  # CloudWatch looks back no further
    assert alarms(stage)["query-errors"]["TreatMissingData"] == "notBreaching"


def test_a_rebuild_that_fails_rings_as_a_night_does(stage):
    counted = json.dumps(alarms(stage)["night-failed"]["Metrics"])
    for machine in ("NightlyBatchEmbedDay", "NightlyBatchFindDay", "RefRebuild"):
        assert machine in counted


def test_releases_and_lots_are_counted_by_the_words_that_the_indexer_logs(stage):
    source = "".join((ROOT / "lambdas" / "bulk_indexer" / name).read_text() for name in ("handler.py", "publishing.py"))
    counted = set()
    for metric_filter in stage.properties("AWS::Logs::MetricFilter"):
        (words,) = re.findall(r'\$\.message = "(.+?)"', metric_filter["FilterPattern"])
        (metric,) = metric_filter["MetricTransformations"]
        assert f'logger.info("{words}"' in source
        counted.add((words, metric["MetricValue"]))
    assert counted == {
        ("release checked", "1"),
        ("part indexed", "$.indexed"),
        ("part indexed", "$.refused"),
        ("index probed", "$.recall"),
    }
    assert 'logger.info("part indexed", extra={"key": key, **indexed.counts})' in source
    assert {"indexed", "refused"} <= set(IndexedPart().counts)


def test_the_first_item_that_the_index_refuses_rings(stage):
    alarm = alarms(stage)["items-refused"]
    assert (alarm["Threshold"], alarm["ComparisonOperator"]) == (1, "GreaterThanOrEqualToThreshold")
    assert (alarm["Statistic"], alarm["TreatMissingData"]) == ("Sum", "notBreaching")
    (metric,) = [
        m
        for f in stage.properties("AWS::Logs::MetricFilter")
        for m in f["MetricTransformations"]
        if m["MetricValue"] == "$.refused"
    ]
    assert (alarm["Namespace"], alarm["MetricName"]) == (metric["MetricNamespace"], metric["MetricName"])


def test_the_live_index_is_probed_every_few_hours_and_too_low_a_recall_or_none_rings(stage):
    (rule,) = [rule for rule in stage.properties("AWS::Events::Rule") if "ScheduleExpression" in rule]
    (target,) = rule["Targets"]
    assert (rule["ScheduleExpression"], target["Input"]) == ("rate(3 hours)", '{"probe":{}}')
    assert "BulkIndexer" in json.dumps(target["Arn"])
    alarm = alarms(stage)["index-recall"]
    assert (alarm["Threshold"], alarm["ComparisonOperator"], alarm["TreatMissingData"]) == (
        MIN_RECALL,
        "LessThanThreshold",
        "breaching",
    )
    assert (alarm["Statistic"], alarm["Period"]) == ("Minimum", 3 * 3600)


@pytest.mark.parametrize(("name", "fallbacks"), [("rerank-fallbacks", "rerank_fallbacks"), ("half-searches", "half_searches")])
def test_searches_that_did_without_something_ring_by_their_share_alone(stage, name, fallbacks):
    alarm = alarms(stage)[name]
    assert (alarm["Threshold"], alarm["TreatMissingData"]) == (MAX_FALLBACKS, "notBreaching")
    (share,) = [metric["Expression"] for metric in alarm["Metrics"] if "Expression" in metric]
    assert share == "fallbacks / searches"
    measured = {m["Id"]: m["MetricStat"]["Metric"] for m in alarm["Metrics"] if "MetricStat" in m}
    assert {m["MetricName"] for m in measured.values()} == {fallbacks, "searches"}
    for metric in measured.values():  # CloudWatch takes another namespace or dimension for another metric, and rings never
        assert metric["Namespace"] == NAMESPACE == measurements.NAMESPACE
        assert metric["Dimensions"] == [{"Name": "stage", "Value": stage.stage.name}]


@pytest.mark.parametrize(("name", "limit"), [("dev", 120), ("prod", 3000)])
def test_the_budget_counts_what_carries_the_stages_tag(request, name, limit):
    synthesised = request.getfixturevalue(name)
    (budget,) = synthesised.properties("AWS::Budgets::Budget")
    assert budget["Budget"]["BudgetLimit"] == {"Amount": limit, "Unit": "USD"}
    assert budget["Budget"]["CostFilters"] == {"TagKeyValue": [f"user:gavel:stage${name}"]}
    assert len(budget["NotificationsWithSubscribers"]) == 2


def test_the_dashboard_shows_latency_queues_releases_and_opensearch(stage):
    (board,) = stage.properties("AWS::CloudWatch::Dashboard")
    text = json.dumps(board["DashboardBody"])
    for shown in ("Query latency", "Parts that wait", "Releases", "JVMMemoryPressure", "SearchableDocuments"):
        assert shown in text
    assert set(SEARCH_STAGES) <= set(measurements.MEASURED)
    for measured in [*(f"{stage_of}_ms {share}" for stage_of in SEARCH_STAGES for share in ("p50", "p99")), "rerank_fallbacks"]:
        assert measured in text


def test_events_that_wait_ring_long_before_firehose_gives_them_up(stage):
    alarm = alarms(stage)["events-undelivered"]
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/Firehose", "DeliveryToS3.DataFreshness")
    (stream,) = stage.properties("AWS::KinesisFirehose::DeliveryStream")
    assert alarm["Dimensions"] == [{"Name": "DeliveryStreamName", "Value": stream["DeliveryStreamName"]}]
    assert BUFFER_S < alarm["Threshold"] < 24 * 3600
    assert alarm["TreatMissingData"] == "notBreaching", "when nobody comes nothing waits"
