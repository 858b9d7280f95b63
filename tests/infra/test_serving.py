"""The bulk indexer and the query API."""

import json

from conftest import synthesise

from infra.bulk_indexer import CARDS, PART_RECEIPTS, RECEIPTS, REJECTS
from infra.item_states import BATCH, DETAIL_TYPE, WRITES
from infra.item_states import TIMEOUT as STATES_TIMEOUT
from infra.item_states import VISIBILITY as STATES_VISIBILITY
from infra.item_store import DELIVERIES, INDEXED_SUFFIXES, INDEXER_TIMEOUT, VISIBILITY
from infra.query_api import PHOTO_PATH, STATES_PATH
from lambdas.index_operations.handler import READ_ONLY
from lambdas.query_api.app import create_app
from lambdas.query_api.events import ShownList, events_router
from lambdas.query_api.image_search import PHOTO_TYPES
from lambdas.query_api.item_states import item_states_router
from retrieval.config.settings import EVENTS_KEYS, ScoringParameters, Settings
from retrieval.contracts.release import INDEX_REJECTS_FILE, RECEIPT_FILE, IndexedPart
from retrieval.contracts.tower_card import CARD_FILE
from retrieval.feedback.firehose_sink import EventStream
from retrieval.search.service import MAX_QUERIES


def function(stage, handler):
    (found,) = [f for f in stage.properties("AWS::Lambda::Function") if f["Handler"] == handler]
    return found


def mapping_of(stage, construct):
    """The mapping of a queue to the function of a construct."""
    mappings = stage.properties("AWS::Lambda::EventSourceMapping")
    (found,) = [mapping for mapping in mappings if construct in json.dumps(mapping["FunctionName"])]
    return found


def methods(stage):
    """Methods of buyers and pages: all but preflights, and the routes that write lots."""
    return [method for method in all_methods(stage) if "ItemStates" not in json.dumps(method["Integration"].get("Uri"))]


def all_methods(stage):
    return {
        (method["HttpMethod"], json.dumps(method["ResourceId"])): method
        for method in stage.properties("AWS::ApiGateway::Method")
        if method["HttpMethod"] != "OPTIONS"
    }.values()


def test_parts_are_indexed_one_at_a_time_and_failures_named_one_by_one(stage):
    mapping = mapping_of(stage, "BulkIndexer")
    assert mapping["BatchSize"] == 1
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_the_queue_leaves_the_function_a_place_for_the_state_machines(stage):
    mapping = mapping_of(stage, "BulkIndexer")
    indexer = function(stage, "lambdas.bulk_indexer.handler.handler")
    assert mapping["ScalingConfig"]["MaximumConcurrency"] == stage.stage.indexer_concurrency
    assert "ReservedConcurrentExecutions" not in indexer, "an account whose quota is ten could not reserve it"


def test_a_part_is_not_handed_out_again_while_it_is_indexed():
    assert VISIBILITY.to_seconds() > INDEXER_TIMEOUT.to_seconds()
    assert DELIVERIES * VISIBILITY.to_minutes() >= 60  # a manifest may come that long before its last part is indexed


def test_what_the_indexer_may_write_has_the_names_that_it_writes(stage):
    assert (RECEIPTS, REJECTS) == (RECEIPT_FILE, INDEX_REJECTS_FILE)
    assert IndexedPart(part="part-00000.ndjson.gz").key.startswith(f"{PART_RECEIPTS}/")
    writes = [
        str(resource)
        for policy in stage.properties("AWS::IAM::Policy")
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Action"] == "s3:PutObject" and "BulkIndexer" in json.dumps(policy["Roles"])
        for resource in ([statement["Resource"]] if isinstance(statement["Resource"], dict) else statement["Resource"])
    ]
    for name in (RECEIPT_FILE, IndexedPart(part="*").key.removesuffix(".receipt"), INDEX_REJECTS_FILE):
        assert any(f"/*/{name}" in resource for resource in writes), name
    assert len(writes) == 3


def test_what_the_indexer_writes_does_not_call_it_again():
    for name in (IndexedPart(part="part-00000.ndjson.gz").key, INDEX_REJECTS_FILE):
        assert not name.endswith(INDEXED_SUFFIXES)


def test_the_indexer_knows_the_bucket_of_releases(stage):
    variables = function(stage, "lambdas.bulk_indexer.handler.handler")["Environment"]["Variables"]
    assert "Embeddings" in json.dumps(variables["GAVEL_EMBEDDINGS_BUCKET"])


def test_the_card_has_the_name_that_a_tower_is_saved_with():
    assert CARDS == CARD_FILE


def test_the_lambdas_read_back_the_settings_that_the_stack_wrote(stage):
    for handler in ("lambdas.bulk_indexer.handler.handler", "lambdas.query_api.handler.handler"):
        written = function(stage, handler)["Environment"]["Variables"]
        plain = {name: value if isinstance(value, str) else "https://domain" for name, value in written.items()}
        settings = Settings.from_env(plain)
        assert ScoringParameters.from_env(plain) == stage.stage.numbers
        assert set(stage.stage.numbers.to_env()) <= set(plain)
        assert (settings.index, settings.opensearch_auth, settings.opensearch_url) == ("opensearch", "sigv4", "https://domain")
        assert (settings.index_shards, settings.index_replicas) == ((3, 1) if stage.stage.name == "prod" else (1, 0))
        assert settings.cors_origins == ",".join(stage.stage.cors_origins)
        assert "s3://" in json.dumps(written["GAVEL_TOWERS_URI"])
        assert settings.stage == stage.stage.name
        assert 2 * settings.ranker_timeout_s <= 0.1  # a connection, and an answer: no more than a whole query may take


def test_queries_go_to_a_published_version_that_snapstart_has_a_picture_of(stage):
    query = function(stage, "lambdas.query_api.handler.handler")
    assert query["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    assert query["TracingConfig"] == {"Mode": "Active"}
    (alias,) = [alias for alias in stage.properties("AWS::Lambda::Alias") if alias["Name"] == "live"]
    # CloudFormation writes all properties where one changes: another one would take `live` back to the last deployment's version
    assert alias.keys() == {"Name", "FunctionName", "FunctionVersion"}
    assert "Version" in json.dumps(alias["FunctionVersion"])
    for method in methods(stage):
        assert "QueryApiLive" in json.dumps(method["Integration"]["Uri"])


def test_the_snapshot_is_renewed_with_permissions_on_the_query_function_alone(stage):
    """Versions and aliases may be changed, and versions deleted; the function itself may not."""
    (policy,) = [p for p in stage.properties("AWS::IAM::Policy") if "QuerySnapshot" in json.dumps(p["Roles"])]
    statements = [s for s in policy["PolicyDocument"]["Statement"] if "lambda:" in json.dumps(s["Action"])]
    resources = {json.dumps(s["Resource"]): {*s["Action"]} for s in statements}
    assert all("QueryApiFunction" in resource for resource in resources)
    deletes = [resource for resource, actions in resources.items() if "lambda:DeleteFunction" in actions]
    assert len(deletes) == 1
    assert '":*"' in deletes[0]
    assert "lambda:InvokeFunction" not in {action for actions in resources.values() for action in actions}


def test_no_method_is_open(stage):
    assert len(methods(stage)) == 13
    assert all(method["ApiKeyRequired"] for method in methods(stage))
    writing = [method for method in all_methods(stage) if method not in methods(stage)]
    assert [method["AuthorizationType"] for method in writing] == ["AWS_IAM"] * len(WRITES)


def test_states_wait_in_a_queue_and_events_of_the_stage_go_there(stage):
    mapping = mapping_of(stage, "ItemStates")
    assert "ItemStatesQueue" in json.dumps(mapping["EventSourceArn"])
    assert (mapping["BatchSize"], mapping["FunctionResponseTypes"]) == (BATCH, ["ReportBatchItemFailures"])
    assert "MaximumBatchingWindowInSeconds" not in mapping, "a bid would wait for it"
    assert STATES_VISIBILITY.to_seconds() >= 6 * STATES_TIMEOUT.to_seconds(), "as AWS advises"
    (rule,) = [rule for rule in stage.properties("AWS::Events::Rule") if "ItemStates" in json.dumps(rule["Targets"])]
    assert rule["EventPattern"] == {"source": [f"gavel.{stage.stage.name}"], "detail-type": [DETAIL_TYPE]}


def test_a_key_has_a_rate_a_burst_and_a_daily_quota(stage):
    (plan,) = stage.properties("AWS::ApiGateway::UsagePlan")
    assert plan["Throttle"] == {"RateLimit": stage.stage.requests_per_second, "BurstLimit": stage.stage.request_burst}
    assert plan["Quota"] == {"Limit": stage.stage.requests_per_day, "Period": "DAY"}
    assert len(stage.properties("AWS::ApiGateway::UsagePlanKey")) == 1


def test_a_key_may_write_half_as_often_as_it_may_ask(stage):
    (plan,) = stage.properties("AWS::ApiGateway::UsagePlan")
    (throttled,) = [served["Throttle"] for served in plan["ApiStages"]]
    half = {"RateLimit": stage.stage.requests_per_second / 2, "BurstLimit": stage.stage.request_burst / 2}
    assert throttled == {"/events/POST": half, "/buyers/{buyer_id}/DELETE": half}


def test_an_address_may_write_as_often_as_gavel_serve_lets_it(prod):
    (acl,) = prod.properties("AWS::WAFv2::WebACL")
    (rule,) = [rule for rule in acl["Rules"] if "RateBasedStatement" in rule["Statement"]]
    limit = rule["Statement"]["RateBasedStatement"]
    assert (limit["Limit"], limit["EvaluationWindowSec"], limit["AggregateKeyType"]) == (3_000, 300, "IP")
    assert limit["Limit"] == Settings().writes_per_second * limit["EvaluationWindowSec"]
    assert "/events" in json.dumps(limit["ScopeDownStatement"])
    assert rule["Action"] == {"Block": {"CustomResponse": {"ResponseCode": 429}}}


def test_a_request_is_one_search_where_a_quota_counts_requests(stage, tmp_path):
    def searches_of(of):
        model = of.of_type("AWS::ApiGateway::Model")[method(of, "/search", "POST")["RequestModels"]["application/json"]["Ref"]]
        told = function(of, "lambdas.query_api.handler.handler")["Environment"]["Variables"]["GAVEL_QUERIES_PER_REQUEST"]
        return model["Properties"]["Schema"]["oneOf"][1]["maxItems"], told

    assert searches_of(stage) == (1, "1")
    assert searches_of(synthesise("dev", tmp_path, api_auth="iam")) == (MAX_QUERIES, str(MAX_QUERIES))


def test_callers_may_sign_instead_where_the_stage_says_so(tmp_path):
    signed = synthesise("dev", tmp_path, api_auth="iam")
    assert {method["AuthorizationType"] for method in methods(signed)} == {"AWS_IAM"}
    assert signed.of_type("AWS::ApiGateway::ApiKey") == {}


def resources(stage):
    """Path -> the logical id of its resource."""
    found = stage.of_type("AWS::ApiGateway::Resource")
    paths = {}

    def path(name):
        parent = found[name]["Properties"]["ParentId"].get("Ref")
        return (path(parent) if parent in found else "") + "/" + found[name]["Properties"]["PathPart"]

    for name in found:
        paths[path(name)] = name
    return paths


def method(stage, path, verb):
    (found,) = [m for m in methods(stage) if m["ResourceId"] == {"Ref": resources(stage)[path]} and m["HttpMethod"] == verb]
    return found


def test_every_operation_of_the_app_has_its_route_and_no_other(stage):
    app = create_app(lambda: None)
    app.include_router(events_router(EventStream("")))
    app.include_router(item_states_router(lambda: None, token=None))
    described = app.openapi()["paths"]
    operations = {(path, verb.upper()) for path, verbs in described.items() for verb in verbs}
    routes = resources(stage)
    deployed = {
        (path, m["HttpMethod"]) for path, name in routes.items() for m in all_methods(stage) if m["ResourceId"] == {"Ref": name}
    }
    assert deployed == operations


def test_a_search_without_words_is_refused_before_the_function(stage):
    models = {json.dumps(name): m["Properties"]["Schema"] for name, m in stage.of_type("AWS::ApiGateway::Model").items()}
    asked = method(stage, "/search", "POST")["RequestModels"]["application/json"]["Ref"]
    single, several = models[json.dumps(asked)]["oneOf"]
    assert single["required"] == several["items"]["required"] == ["q"]
    assert method(stage, "/search", "GET")["RequestParameters"] == {"method.request.querystring.q": True}
    (validator,) = stage.properties("AWS::ApiGateway::RequestValidator")
    assert validator["ValidateRequestBody"]
    assert validator["ValidateRequestParameters"]


def test_a_buyer_of_whom_nothing_is_said_is_refused_before_the_function(stage):
    asked = method(stage, "/encode_buyer", "POST")["RequestModels"]["application/json"]["Ref"]
    forms = stage.of_type("AWS::ApiGateway::Model")[asked]["Properties"]["Schema"]["anyOf"]
    assert forms == [{"required": ["recent_interactions"]}, {"required": ["events"]}, {"required": ["buyer_id"]}]


def test_a_query_to_encode_without_words_is_refused_before_the_function(stage):
    asked = method(stage, "/encode_query", "POST")["RequestModels"]["application/json"]["Ref"]
    assert stage.of_type("AWS::ApiGateway::Model")[asked]["Properties"]["Schema"]["anyOf"] == [
        {"required": [name]} for name in ("query", "q")
    ]


def test_the_access_log_holds_no_words_of_buyers(stage):
    (deployed,) = stage.properties("AWS::ApiGateway::Stage")
    line = json.loads(deployed["AccessLogSetting"]["Format"])
    assert {"status", "latency_ms", "request_id"} <= set(line)
    assert not any("querystring" in value or "body" in value for value in line.values())
    assert deployed["TracingEnabled"]
    assert not any(setting.get("DataTraceEnabled") for setting in deployed["MethodSettings"])


def test_prod_has_a_firewall_of_managed_rules_before_the_api(dev, prod):
    assert dev.of_type("AWS::WAFv2::WebACL") == {}
    (acl,) = prod.properties("AWS::WAFv2::WebACL")
    managed = [rule["Statement"]["ManagedRuleGroupStatement"] for rule in acl["Rules"] if "OverrideAction" in rule]
    names = [group["Name"] for group in managed]
    assert names[0] == "AWSManagedRulesCommonRuleSet"
    assert len(prod.properties("AWS::WAFv2::WebACLAssociation")) == 1


def test_the_firewall_lets_photos_and_many_states_pass_and_no_other_body_that_looks_wrong(prod):
    (acl,) = prod.properties("AWS::WAFv2::WebACL")
    common, own = acl["Rules"][0], acl["Rules"][-1]
    counted = {rule["Name"] for rule in common["Statement"]["ManagedRuleGroupStatement"]["RuleActionOverrides"]}
    assert "SizeRestrictions_BODY" in counted
    assert own["Action"] == {"Block": {}}
    labelled, *elsewhere = own["Statement"]["AndStatement"]["Statements"]
    labels = {one["LabelMatchStatement"]["Key"].rsplit(":", 1)[1] for one in labelled["OrStatement"]["Statements"]}
    assert {label.lower() for label in labels} == {rule.lower() for rule in counted}, "what is only counted must be refused here"
    matches = [statement["NotStatement"]["Statement"]["ByteMatchStatement"] for statement in elsewhere]
    assert {match["PositionalConstraint"] for match in matches} == {"ENDS_WITH"}
    assert [match["SearchString"] for match in matches] == [PHOTO_PATH, STATES_PATH]
    assert {PHOTO_PATH, STATES_PATH} <= resources(prod).keys()


def test_photos_reach_the_function_as_bytes_and_no_other_body_does(stage):
    (api,) = stage.properties("AWS::ApiGateway::RestApi")
    assert api["BinaryMediaTypes"] == list(PHOTO_TYPES)
    assert PHOTO_PATH in resources(stage)
    assert "RequestModels" not in method(stage, PHOTO_PATH, "POST")


def test_pages_of_the_listed_origins_may_ask(dev):
    preflights = [m for m in dev.properties("AWS::ApiGateway::Method") if m["HttpMethod"] == "OPTIONS"]
    assert len(preflights) == 10
    assert all("http://localhost:8000" in json.dumps(method["Integration"]) for method in preflights)


def test_without_origins_there_is_no_preflight(tmp_path):
    closed = synthesise("dev", tmp_path, cors_origins=[])
    assert not any(m["HttpMethod"] == "OPTIONS" for m in closed.properties("AWS::ApiGateway::Method"))


def test_the_reader_cannot_write_and_the_writer_stays_within_the_alias(stage):
    given = {access["Role"]: access["Permissions"] for access in stage.properties("Custom::IndexAccess")}
    assert set(given) == {"gavel_reader", "gavel_writer", "gavel_statewriter", "gavel_operator"}
    (read,) = given["gavel_reader"]["index_permissions"]
    assert read == {
        "index_patterns": ["auction-items*"],
        "allowed_actions": ["read", "indices:admin/get", "indices:admin/mappings/get", "indices:admin/aliases/get"],
    }
    (write,) = given["gavel_writer"]["index_permissions"]
    assert write["index_patterns"] == ["auction-items*"]
    creates, writes_states = given["gavel_statewriter"]["index_permissions"]
    assert (creates["index_patterns"], writes_states["index_patterns"]) == (["auction-items-states"], ["auction-items*"])
    assert not {"indices:admin/aliases", "indices:admin/delete", "create_index"} & set(writes_states["allowed_actions"])
    (operate,) = given["gavel_operator"]["index_permissions"]
    assert operate["index_patterns"] == ["auction-items*"]
    assert not {"indices_all", "indices:admin/create", "create_index"} & set(operate["allowed_actions"])


def test_callers_may_be_allowed_to_list_indices_without_being_allowed_to_change_them(stage):
    """IAM judges the ARN that is called: the function has an alias for each of the two."""
    names = {"IndexReader": "read", "IndexOperator": "change"}
    aliases = stage.of_type("AWS::Lambda::Alias")
    for output, name in names.items():
        alias = aliases[stage.templates["Serving"]["Outputs"][output]["Value"]["Ref"]]["Properties"]
        assert alias["Name"] == name
    assert READ_ONLY == "read"


def test_a_role_of_people_gets_an_operators_permissions(tmp_path):
    arn = "arn:aws:iam::123456789012:role/on-call"
    given = synthesise("dev", tmp_path, operator_role=arn).properties("Custom::IndexAccess")
    people, function = (next(a for a in given if a["Role"] == role) for role in ("gavel_operators", "gavel_operator"))
    assert people["BackendRole"] == arn
    assert people["Permissions"] == function["Permissions"]


def test_events_without_a_list_are_refused_before_the_function(stage):
    models = stage.of_type("AWS::ApiGateway::Model")
    asked = method(stage, "/events", "POST")["RequestModels"]["application/json"]["Ref"]
    assert set(models[asked]["Properties"]["Schema"]["required"]) == set(ShownList.model_fields)


def test_the_query_function_alone_has_the_key_that_signs_lists_and_no_template_holds_it(stage):
    ((secret, _),) = [kept for kept in stage.of_type("AWS::SecretsManager::Secret").items() if "EventsKey" in kept[0]]
    keys = function(stage, "lambdas.query_api.handler.handler")["Environment"]["Variables"][EVENTS_KEYS]
    assert keys == {"Fn::Join": ["", ["{{resolve:secretsmanager:", {"Ref": secret}, ":SecretString:::}}"]]}
    others = [f for f in stage.properties("AWS::Lambda::Function") if f["Handler"] != "lambdas.query_api.handler.handler"]
    assert not any(EVENTS_KEYS in f.get("Environment", {}).get("Variables", {}) for f in others)


def test_the_query_function_may_send_events_and_is_told_where(stage):
    ((name, stream),) = stage.of_type("AWS::KinesisFirehose::DeliveryStream").items()
    query = function(stage, "lambdas.query_api.handler.handler")
    assert query["Environment"]["Variables"]["GAVEL_EVENTS_STREAM"] == stream["Properties"]["DeliveryStreamName"]
    allowed = [
        statement
        for policy in stage.of_type("AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "firehose:" in json.dumps(statement["Action"])
    ]
    assert [(s["Action"], s["Resource"]) for s in allowed] == [("firehose:PutRecordBatch", {"Fn::GetAtt": [name, "Arn"]})]
    endpoints = [json.dumps(endpoint["ServiceName"]) for endpoint in stage.properties("AWS::EC2::VPCEndpoint")]
    assert any("kinesis-firehose" in service for service in endpoints), "there is no other way out of the network"


def test_events_are_written_packed_and_encrypted_below_their_day_and_deliveries_are_logged(stage):
    (stream,) = stage.properties("AWS::KinesisFirehose::DeliveryStream")
    place = stream["ExtendedS3DestinationConfiguration"]
    assert (place["CompressionFormat"], place["Prefix"]) == ("GZIP", "events/!{timestamp:yyyy/MM/dd}/")
    assert place["ErrorOutputPrefix"].startswith("errors/!{firehose:error-output-type}/")
    assert place["CloudWatchLoggingOptions"]["Enabled"]
    assert stream["DeliveryStreamEncryptionConfigurationInput"] == {"KeyType": "AWS_OWNED_CMK"}
    (trust,) = [
        statement
        for role in stage.properties("AWS::IAM::Role")
        for statement in role["AssumeRolePolicyDocument"]["Statement"]
        if statement["Principal"] == {"Service": "firehose.amazonaws.com"}
    ]
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}


def test_buyers_acts_lie_in_a_table_that_the_query_function_alone_may_use_and_is_told_of(stage):
    ((name, table),) = stage.of_type("AWS::DynamoDB::Table", "Storage").items()
    said = table["Properties"]
    assert [(key["AttributeName"], key["KeyType"]) for key in said["KeySchema"]] == [("buyer_id", "HASH"), ("act", "RANGE")]
    assert (said["BillingMode"], said["TimeToLiveSpecification"]) == (
        "PAY_PER_REQUEST",
        {"AttributeName": "expires_at", "Enabled": True},
    )
    query = function(stage, "lambdas.query_api.handler.handler")
    assert name in json.dumps(query["Environment"]["Variables"]["GAVEL_BUYER_EVENTS_TABLE"])
    assert query["Environment"]["Variables"]["GAVEL_BUYER_EVENTS_DAYS"] == "90"
    allowed = [
        (statement["Action"], name in json.dumps(statement["Resource"]), policy["Properties"]["Roles"])
        for policy in stage.of_type("AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "dynamodb:" in json.dumps(statement["Action"])
    ]
    assert allowed == [(["dynamodb:BatchWriteItem", "dynamodb:Query"], True, [{"Ref": query["Role"]["Fn::GetAtt"][0]}])]
    endpoints = [e for e in stage.properties("AWS::EC2::VPCEndpoint") if "dynamodb" in json.dumps(e["ServiceName"])]
    assert [e["VpcEndpointType"] for e in endpoints] == ["Gateway"], "there is no other way out of the network"


def test_prod_can_take_its_buyers_back_to_any_moment_of_a_week_and_dev_keeps_nothing(dev, prod):
    def recovery(stage):
        (table,) = stage.properties("AWS::DynamoDB::Table")
        return table.get("PointInTimeRecoverySpecification", {})

    assert recovery(prod) == {"PointInTimeRecoveryEnabled": True, "RecoveryPeriodInDays": 7}
    assert recovery(dev) == {"PointInTimeRecoveryEnabled": False}


def test_a_page_may_ask_for_its_buyer_to_be_forgotten(dev):
    preflights = [m for m in dev.properties("AWS::ApiGateway::Method") if m["HttpMethod"] == "OPTIONS"]
    assert all("DELETE" in json.dumps(method["Integration"]) for method in preflights)
    assert method(dev, "/buyers/{buyer_id}", "DELETE")["RequestParameters"] == {"method.request.path.buyer_id": True}
