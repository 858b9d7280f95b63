"""The values of a stage: whatever is wrong in cdk.json is named."""

from dataclasses import replace

import pytest
from conftest import CONTEXT

from infra.stage import RerankerArtefact, StageError, read_stage
from retrieval.config.settings import EventWeights, ScoringParameters

STAGES = CONTEXT["stages"]
RERANKER = {
    "model_key": "rerankers/a/model.tar.gz",
    "image": "image",
    "instance": "ml.c7i.large",
    "instances": 1,
    "most_instances": 2,
}


def dev(**changed):
    return {"dev": {**STAGES["dev"], **changed}}


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_cdk_json_describes_both_stages(name):
    assert read_stage(STAGES, name).name == name


def test_a_stage_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(StageError, match=r"no stage 'test'; it has dev, prod: pass -c stage=NAME"):
        read_stage(STAGES, "test")


def test_a_missing_value_is_named():
    values = {name: value for name, value in STAGES["dev"].items() if name != "azs"}
    with pytest.raises(StageError, match=r"stages\.dev\.azs is missing"):
        read_stage({"dev": values}, "dev")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sise": 1}, r"sise is unknown"),
        ({"azs": "two"}, r"azs is 'two'; it must be int"),
        ({"azs": True}, r"azs is True; it must be int"),
        ({"azs": 4}, r"azs is 4; allowed are 1 to 3"),
        ({"azs": 2}, r"opensearch_nodes is 1; allowed are multiples of azs"),
        ({"opensearch_version": "2.17"}, r"opensearch_version is '2\.17'; allowed are 2\.19 or newer"),
        ({"language": "xx"}, r"language is 'xx'; allowed are en, de, fr, es"),
        ({"index_shards": 0}, r"index_shards is 0; allowed are 1 to 64"),
        ({"index_replicas": 1}, r"index_replicas is 1; allowed are numbers from 0, below opensearch_nodes"),
        ({"indexer_concurrency": 1}, r"indexer_concurrency is 1; allowed are whole numbers from 2"),
        ({"rebuild_instance_count": 0}, r"rebuild_instance_count is 0; allowed are whole numbers from 1"),
        ({"rebuild_hours": 121}, r"rebuild_hours is 121; allowed are 1 to 120"),
        ({"operator_role": "on-call"}, "operator_role is 'on-call'; allowed are ARNs of IAM roles, such as arn:aws:iam"),
        ({"instance_ladder": []}, r"instance_ladder is \[\]; allowed are one instance type or more"),
        ({"api_auth": "none"}, r"api_auth is 'none'; allowed are api_key or iam"),
        ({"reranker": {}}, r"stages\.dev\.reranker\.image is missing"),
        ({"reranker": "yes"}, r"reranker is 'yes'"),
        ({"hyperparameters": {"buyer_shore": 1}}, r"hyperparameters\.buyer_shore is unknown; it takes event_weights, buyer_share"),
        ({"item_files": {"decimals": "comma"}}, r"item_files\.decimals is unknown; it takes column, decimal, dates, encoding"),
        ({"item_files": {"column": ["image=my photo"]}}, r"item_files\.column is .*a list of texts, without spaces"),
        ({"hyperparameters": {"buyer_share": 2}}, r"GAVEL_BUYER_SHARE is 2; allowed are numbers from 0 to 1"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_name(changed, message):
    with pytest.raises(StageError, match=message):
        read_stage(dev(**changed), "dev")


@pytest.mark.parametrize("name", ["dev", "prod"])
def test_both_stages_serve_the_reranker_that_was_published_last_and_none_before(name):
    assert read_stage(STAGES, name).reranker.model_key is None
    published = read_stage(STAGES, name, "rerankers/b/model.tar.gz").reranker
    assert published == replace(read_stage(STAGES, name).reranker, model_key="rerankers/b/model.tar.gz")


def test_a_reranker_that_cdk_json_names_overrides_the_published_one_and_a_stage_may_have_none():
    assert read_stage(dev(reranker=RERANKER), "dev", "rerankers/b/model.tar.gz").reranker == RerankerArtefact(**RERANKER)
    without = {key: value for key, value in STAGES["dev"].items() if key != "reranker"}
    assert read_stage({"dev": without}, "dev", "rerankers/b/model.tar.gz").reranker is None


@pytest.mark.parametrize("key", ["", "reranker.ubj", 5, {"model_key": "a"}])
def test_a_published_reranker_that_is_no_archive_is_refused_with_the_command_that_writes_it(key):
    with pytest.raises(StageError, match=r"gavel:reranker:dev of cdk.context.json is .*`gavel aws publish-ranker --stage dev`"):
        read_stage(STAGES, "dev", key)


def test_newer_engines_are_taken():
    assert read_stage(dev(opensearch_version="3.1"), "dev").opensearch_version == "3.1"


def test_a_stage_may_say_how_its_catalogue_files_are_read():
    stage = read_stage(dev(item_files={"decimal": "comma", "column": ["image=img", "brand=maker"]}), "dev")
    assert stage.item_file_variables == {"GAVEL_DECIMAL": "comma", "GAVEL_COLUMN": "image=img brand=maker"}
    assert read_stage(dev(), "dev").item_file_variables == {}


def test_a_stage_may_have_hyperparameters_of_its_own():
    numbers = read_stage(dev(hyperparameters={"event_weights": {"purchase": 20}, "buyer_share": 0.3}), "dev").numbers
    assert numbers == ScoringParameters(event_weights=EventWeights(purchase=20.0), buyer_share=0.3)
    assert read_stage(STAGES, "dev").numbers == ScoringParameters()
