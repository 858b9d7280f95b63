"""The search API: API Gateway -> the query Lambda, behind an API key or a signature, limits and a firewall."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_wafv2 as waf
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.function_role import FunctionRole
from infra.item_store import ItemStore
from infra.log_group import log_group
from infra.network import Network
from infra.permissions import allow_below
from infra.python_asset import bundled_code
from infra.stage import Stage
from infra.vector_index import READ_VERBS, READER, VectorIndex
from retrieval.config.settings import EVENTS_KEYS, Settings

QUERY_TIMEOUT = Duration.seconds(20)  # the first query of a new environment loads a tower; later queries take milliseconds
CORS_METHODS = ["GET", "POST", "DELETE"]
CORS_HEADERS = ["Content-Type", "X-Api-Key", "Authorization", "X-Amz-Date", "X-Amz-Security-Token"]
MANAGED_RULES = ("AWSManagedRulesCommonRuleSet", "AWSManagedRulesKnownBadInputsRuleSet", "AWSManagedRulesAmazonIpReputationList")
PHOTO_TYPES = ["image/jpeg", "image/png", "image/webp"]  # bodies passed on as binary, see lambdas/query_api/image_search.py
PHOTO_PATH = "/search/image"
STATES_PATH = "/items/state"  # up to 1,000 states, from callers with an IAM signature
EVENTS_PATH = "/events"
WRITE_SHARE = 0.5  # share of a key's rate and burst for events and erasures, which leave the rest to searches
RATE_WINDOW_S = 300  # WAF's default
# rules of the common rule set that check a body as if a browser's form had sent it, which is wrong for photos
BODY_RULES = {
    "SizeRestrictions_BODY": "SizeRestrictions_Body",  # 8 KB; the app's own limit is a megabyte
    "CrossSiteScripting_BODY": "CrossSiteScripting_Body",
    "GenericLFI_BODY": "GenericLFI_Body",
    "GenericRFI_BODY": "GenericRFI_Body",
    "EC2MetaDataSSRF_BODY": "EC2MetaDataSSRF_Body",
}
LABELS = "awswaf:managed:aws:core-rule-set:"
LOG_POLICY = "arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"
KEYS = "The stage takes API keys, each with its rate and quota; stage value api_auth 'iam' asks for signatures."
NO_USERS = "Callers are programs with an API key or an IAM signature (stage value api_auth); there is no user pool to ask."
# without query string and body, so that no words of searches are logged
ACCESS_LINE = (
    '{"request_id":"$context.requestId","ip":"$context.identity.sourceIp","time":"$context.requestTime",'
    '"method":"$context.httpMethod","path":"$context.resourcePath","status":"$context.status",'
    '"latency_ms":"$context.responseLatency","integration_ms":"$context.integrationLatency","key":"$context.identity.apiKeyId"}'
)


class QueryApi(Construct):
    """The routes of lambdas/query_api/app.py on a regional REST API.

    Attributes:
        function: the query Lambda.
        live: alias of the function, for a published version that SnapStart has a snapshot of.
        api: the REST API.
        key: the API key of the stage's usage plan; None if callers sign their requests.
    """

    def __init__(
        self, scope: Construct, id: str, *, stage: Stage, network: Network, store: ItemStore, index: VectorIndex, settings: Settings
    ) -> None:
        super().__init__(scope, id)
        self._stage = stage
        self.role = FunctionRole(self, "Role", log_group=log_group(self, "Logs", stage))
        self.function = self._function(network, settings)
        self.live = lambda_.Alias(self, "Live", alias_name="live", version=self.function.current_version)
        self._allow(store, index)
        self.api = self._api()
        writes = self._routes(settings.queries_per_request)
        self.key = self._plan(writes) if stage.api_auth == "api_key" else None
        if stage.waf:
            self._firewall(round(settings.writes_per_second * RATE_WINDOW_S))

    def _signing_key(self) -> secretsmanager.Secret:
        """Create the key that signs served lists. To rotate it, put a new key before the old one and deploy."""
        generator = secretsmanager.SecretStringGenerator(password_length=64, exclude_punctuation=True)
        key = secretsmanager.Secret(
            self, "EventsKey", description="Signs the lists that searches answer with", generate_secret_string=generator
        )
        acknowledge(
            key, {"SMG4": "A new key at any moment would take the proof from every list that is open; docs/feedback.md says how."}
        )
        return key

    def _function(self, network: Network, settings: Settings) -> lambda_.Function:
        # the value is inserted at deployment, because the private network does not reach Secrets Manager, whose endpoint would cost
        # more than all calls of the function
        keys = {EVENTS_KEYS: self._signing_key().secret_value.unsafe_unwrap()}
        function = network.function(
            self,
            "Function",
            description="Answers searches",
            handler="lambdas.query_api.handler.handler",
            code=bundled_code(self, "query_api"),
            role=self.role,
            memory_size=self._stage.query_memory_mib,
            timeout=QUERY_TIMEOUT,
            snap_start=lambda_.SnapStartConf.ON_PUBLISHED_VERSIONS,
            tracing=lambda_.Tracing.ACTIVE,
            environment=settings.to_env() | self._stage.numbers.to_env() | keys,
        )
        acknowledge(
            function,
            {"Annotation::@aws-cdk/aws-lambda:snapStartRequirePublish": "The alias `live` points at a published version."},
        )
        return function

    def _allow(self, store: ItemStore, index: VectorIndex) -> None:
        """Allow the function to read towers and search the index."""
        towers = store.towers
        # without this permission S3 answers 403 for an optional file that a tower lacks, which looks like a missing permission
        self.role.add_to_principal_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=[towers.bucket_arn]))
        allow_below(self.role, ["s3:GetObject"], towers, towers.bucket_arn, "/*", "The live index says which tower is read.")
        index.connect(self.role, READ_VERBS)
        index.grant_access(self, "Reader", self.role, READER)

    def _api(self) -> apigateway.RestApi:
        stage = self._stage
        access_logs = log_group(self, "AccessLogs", stage)
        api = apigateway.RestApi(
            self,
            "Api",
            rest_api_name=f"gavel-{stage.name}",
            description="Search for auction lots",
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            binary_media_types=PHOTO_TYPES,
            cloud_watch_role=True,  # one role for the account and region; without it no API may write logs
            cloud_watch_role_removal_policy=RemovalPolicy.RETAIN,
            deploy_options=apigateway.StageOptions(
                stage_name="v1",
                tracing_enabled=True,
                metrics_enabled=True,
                throttling_rate_limit=stage.requests_per_second,
                throttling_burst_limit=stage.request_burst,
                access_log_destination=apigateway.LogGroupLogDestination(access_logs),
                access_log_format=apigateway.AccessLogFormat.custom(ACCESS_LINE),
            ),
        )
        acknowledge(
            api,
            {
                "APIG6": "Execution logs hold the words that buyers type; the access log and X-Ray say what operation needs.",
                "COG4": NO_USERS,
                f"IAM4[Policy::{LOG_POLICY}]": "AWS keeps this policy for this very role.",
                **({} if stage.api_auth == "iam" else {"APIG4": KEYS}),
                **({} if stage.waf else {"APIG3": "Development stages have no firewall (stage value waf); API keys are rationed."}),
            },
        )
        return api

    def _routes(self, queries_per_request: int) -> list[apigateway.Method]:
        """Add the routes and return the methods that write."""
        by_query = apigateway.LambdaIntegration(self.live, proxy=True)
        validator = self.api.add_request_validator("Validator", validate_request_body=True, validate_request_parameters=True)
        signed = self._stage.api_auth == "iam"

        def add(
            resource: apigateway.IResource, verb: str, *parameters: str, body: tuple[str, apigateway.JsonSchema] | None = None
        ) -> apigateway.Method:
            models = (
                {"application/json": self.api.add_model(body[0], content_type="application/json", schema=body[1])} if body else None
            )
            return resource.add_method(
                verb,
                by_query,
                request_parameters={f"method.request.{name}": True for name in parameters} or None,
                request_models=models,
                request_validator=validator,
                authorization_type=apigateway.AuthorizationType.IAM if signed else None,
                api_key_required=None if signed else True,
            )

        root = self.api.root
        search, health, retrieve = (root.add_resource(path) for path in ("search", "health", "retrieve"))
        item = root.add_resource("items").add_resource("{item_id}")
        similar = item.add_resource("similar")
        encode_query, encode_buyer, events = (root.add_resource(path) for path in ("encode_query", "encode_buyer", "events"))
        image, buyer = search.add_resource("image"), root.add_resource("buyers").add_resource("{buyer_id}")
        add(search, "GET", "querystring.q")
        add(search, "POST", body=("SearchBody", _search_body(queries_per_request)))
        add(image, "POST")
        add(health, "GET")
        for of_item in (item, similar):
            add(of_item, "GET", "path.item_id")
        add(encode_query, "POST", body=("QueryBody", _one_of("query", "q")))
        add(encode_buyer, "POST", body=("BuyerBody", _one_of("recent_interactions", "events", "buyer_id")))
        add(retrieve, "GET")
        add(retrieve, "POST", body=("RetrieveBody", _object()))
        post_events = add(events, "POST", body=("EventsBody", _object("query_id", "session_id", "query", "shown_at", "events")))
        _, erase = (add(buyer, verb, "path.buyer_id") for verb in ("GET", "DELETE"))
        if self._stage.cors_origins:
            for resource in (search, image, health, item, similar, encode_query, encode_buyer, retrieve, events, buyer):
                self._cors(resource)
        return [post_events, erase]

    def _cors(self, resource: apigateway.Resource) -> None:
        preflight = resource.add_cors_preflight(
            allow_origins=self._stage.cors_origins, allow_methods=CORS_METHODS, allow_headers=CORS_HEADERS
        )
        acknowledge(
            preflight,
            {"APIG4": "A browser asks for permission before it signs or shows a key.", "COG4": NO_USERS},
        )

    def _plan(self, writes: list[apigateway.Method]) -> apigateway.IApiKey:
        """Create one API key, with a rate, a burst, a daily quota and a lower rate of writes."""
        stage = self._stage
        slower = apigateway.ThrottleSettings(
            rate_limit=stage.requests_per_second * WRITE_SHARE, burst_limit=round(stage.request_burst * WRITE_SHARE)
        )
        plan = self.api.add_usage_plan(
            "Plan",
            throttle=apigateway.ThrottleSettings(rate_limit=stage.requests_per_second, burst_limit=stage.request_burst),
            quota=apigateway.QuotaSettings(limit=stage.requests_per_day, period=apigateway.Period.DAY),
            api_stages=[
                apigateway.UsagePlanPerApiStage(
                    api=self.api,
                    stage=self.api.deployment_stage,
                    throttle=[apigateway.ThrottlingPerMethod(method=method, throttle=slower) for method in writes],
                )
            ],
        )
        key = self.api.add_api_key("Key")
        plan.add_api_key(key)
        return key

    def _firewall(self, writes_per_window: int) -> None:
        """Add AWS's managed rules in their own order, and a limit of writes per address.

        Rules that would refuse a photo because of its bytes do not apply to /search/image.
        """
        managed = [_managed(name, priority) for priority, name in enumerate(MANAGED_RULES)]
        acl = waf.CfnWebACL(
            self,
            "Firewall",
            scope="REGIONAL",
            default_action={"allow": {}},
            visibility_config=_visibility("Firewall"),
            rules=[*managed, _limit_writes(writes_per_window, len(managed)), _refuse_bodies_but_photos(len(managed) + 1)],
        )
        waf.CfnWebACLAssociation(
            self, "FirewallBeforeApi", resource_arn=self.api.deployment_stage.stage_arn, web_acl_arn=acl.attr_arn
        )


def _managed(name: str, priority: int) -> dict[str, object]:
    group: dict[str, object] = {"vendorName": "AWS", "name": name}
    if name == MANAGED_RULES[0]:
        group["ruleActionOverrides"] = [{"name": rule, "actionToUse": {"count": {}}} for rule in BODY_RULES]  # still sets labels
    return {
        "name": name,
        "priority": priority,
        "overrideAction": {"none": {}},
        "statement": {"managedRuleGroupStatement": group},
        "visibilityConfig": _visibility(name),
    }


def _limit_writes(limit: int, priority: int) -> dict[str, object]:
    """Return the rule that blocks an address with more than `limit` events and erasures in RATE_WINDOW_S."""
    writes = [_matches({"method": {}}, "DELETE", "EXACTLY"), _matches({"uriPath": {}}, EVENTS_PATH, "ENDS_WITH")]
    rule = {"limit": limit, "evaluationWindowSec": RATE_WINDOW_S, "aggregateKeyType": "IP"}
    name = "WritesOfAnAddress"
    return {
        "name": name,
        "priority": priority,
        "action": {"block": {"customResponse": {"responseCode": 429}}},
        "statement": {"rateBasedStatement": {**rule, "scopeDownStatement": {"orStatement": {"statements": writes}}}},
        "visibilityConfig": _visibility(name),
    }


def _matches(field: dict[str, object], text: str, where: str) -> dict[str, object]:
    untouched = [{"priority": 0, "type": "NONE"}]
    match = {"searchString": text, "fieldToMatch": field, "positionalConstraint": where, "textTransformations": untouched}
    return {"byteMatchStatement": match}


def _refuse_bodies_but_photos(priority: int) -> dict[str, object]:
    """Return the rule that blocks requests labelled by the body rules, except on the routes whose body is a photo or long."""
    labelled = [{"labelMatchStatement": {"scope": "LABEL", "key": f"{LABELS}{label}"}} for label in BODY_RULES.values()]
    other = [{"notStatement": {"statement": _matches({"uriPath": {}}, path, "ENDS_WITH")}} for path in (PHOTO_PATH, STATES_PATH)]
    name = "BodiesButPhotos"
    return {
        "name": name,
        "priority": priority,
        "action": {"block": {}},
        "statement": {"andStatement": {"statements": [{"orStatement": {"statements": labelled}}, *other]}},
        "visibilityConfig": _visibility(name),
    }


def _visibility(name: str) -> dict[str, object]:
    return {"cloudWatchMetricsEnabled": True, "metricName": name, "sampledRequestsEnabled": False}


def _search_body(queries_per_request: int) -> apigateway.JsonSchema:
    """Return the schema of a search body that API Gateway checks; lambdas/query_api/questions.py checks the rest."""
    words = apigateway.JsonSchema(type=apigateway.JsonSchemaType.STRING, min_length=1)
    query = apigateway.JsonSchema(type=apigateway.JsonSchemaType.OBJECT, required=["q"], properties={"q": words})
    several = apigateway.JsonSchema(type=apigateway.JsonSchemaType.ARRAY, min_items=1, max_items=queries_per_request, items=query)
    return apigateway.JsonSchema(schema=apigateway.JsonSchemaVersion.DRAFT4, one_of=[query, several])


def _one_of(*names: str) -> apigateway.JsonSchema:
    """Return the schema of an object with at least one of these fields."""
    forms = [apigateway.JsonSchema(required=[name]) for name in names]
    kind = apigateway.JsonSchemaType.OBJECT
    return apigateway.JsonSchema(schema=apigateway.JsonSchemaVersion.DRAFT4, type=kind, any_of=forms)


def _object(*required: str) -> apigateway.JsonSchema:
    kind = apigateway.JsonSchemaType.OBJECT
    return apigateway.JsonSchema(schema=apigateway.JsonSchemaVersion.DRAFT4, type=kind, required=list(required) or None)
