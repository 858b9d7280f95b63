"""The query API: one FastAPI app, served by uvicorn on a laptop and by Mangum in Lambda."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.telemetry import TelemetryConfig
from starlette.routing import Match
from starlette.types import Scope

from lambdas.query_api.answers import Answer, EncodedBuyer, EncodedQuery, Health, ItemDetails, Queue, RetrieveAnswer, cache_counts
from lambdas.query_api.buyers import add_buyers
from lambdas.query_api.callers import NO_LIMITS, CallerCheck, CallerLimits, charge_searches
from lambdas.query_api.image_search import add_image_search
from lambdas.query_api.problems import BAD_BODY, PROBLEM_TYPE, PROBLEMS, UNKNOWN_ITEM, answer_problems
from lambdas.query_api.questions import (
    BuyerEvents,
    ItemId,
    Nearest,
    QueryText,
    RetrieveBody,
    RetrieveQuery,
    SearchBody,
    Searches,
    SearchQuery,
    to_interactions,
)
from lambdas.query_api.strict_route import StrictRoute
from retrieval.contracts.items import MAX_ID_BYTES, require_id
from retrieval.errors import InvalidQuery
from retrieval.feedback.served_lists import UNSIGNED, ServedLists
from retrieval.search.service import MAX_QUERIES, SearchAnswer, SearchService

__all__ = ["PROBLEM_TYPE", "create_app"]

Service = Callable[[], SearchService]
METHODS = ("GET", "POST", "DELETE")  # methods that pages of other origins may use
UNTRACED: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}  # because FastAPI's spans hold what buyers type


def create_app(
    service: Service,
    cors_origins: Sequence[str] = (),
    on_answer: Callable[[SearchAnswer], None] = lambda answer: None,
    limits: CallerLimits = NO_LIMITS,
    queries_per_request: int = MAX_QUERIES,
    queues: Callable[[], Mapping[str, Mapping[str, float]]] = dict,
    lists: ServedLists = UNSIGNED,
    telemetry: TelemetryConfig = UNTRACED,
) -> FastAPI:
    """Build the app of the query API.

    Args:
        service: returns the search service; called by the first request, so that an import loads no model.
        cors_origins: origins whose pages may read the answers.
        on_answer: called with the answer of every search, for measurements.
        limits: limits of callers.
        queries_per_request: maximum number of searches in one `POST /search`, 1 to MAX_QUERIES; 1 if a quota counts requests.
        queues: returns kind of request -> fields of its Queue, for /health.
        lists: signs the answers to searches in words.
        telemetry: settings for what FastAPI sends to OpenTelemetry.
    """
    app = FastAPI(
        title="Gavel",
        version="1",
        description="Find the auction lots to look at.",
        responses=PROBLEMS,
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
        telemetry=telemetry,
    )
    app.router.route_class = StrictRoute
    answer_problems(app)
    app.add_middleware(CallerCheck, limits=limits, origins=cors_origins)
    if cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=cors_origins, allow_methods=METHODS, allow_headers=["*"])
    _add_search(app, service, on_answer, lists, queues, queries_per_request)
    add_image_search(app, service, on_answer)
    _add_nearest(app, service)
    add_buyers(app, service)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]  # as FastAPI documents it
    return app


def _add_search(
    app: FastAPI,
    service: Service,
    on_answer: Callable[[SearchAnswer], None],
    lists: ServedLists,
    queues: Callable[[], Mapping[str, Mapping[str, float]]],
    queries_per_request: int,
) -> None:
    @app.get("/search")
    def search(query: Annotated[SearchQuery, Query()]) -> Answer:
        """Search by query string."""
        answer = service().search(query.to_request())
        on_answer(answer)
        return Answer.of(answer).signed(lists, query.q)

    async def check_count(body: Searches, request: Request) -> SearchBody | list[SearchBody]:  # async: needs no thread
        queries = len(body) if isinstance(body, list) else 1
        if queries > queries_per_request:
            raise InvalidQuery(f"{queries} queries were sent; a request takes {queries_per_request} here, send the others apart")
        charge_searches(request, queries - 1)
        return body

    @app.post("/search", responses=BAD_BODY)
    def search_by_body(body: Annotated[SearchBody | list[SearchBody], Depends(check_count)]) -> Answer | list[Answer]:
        """Search by JSON body. A list of queries is encoded together and answered by a list; each query counts as a search."""
        queries = body if isinstance(body, list) else [body]
        answers = service().search_many([query.to_request() for query in queries])
        for answer in answers:
            on_answer(answer)
        signed = [Answer.of(answer).signed(lists, query.q) for answer, query in zip(answers, queries, strict=True)]
        return signed if isinstance(body, list) else signed[0]

    @app.get("/health")
    def health() -> Health:
        """Report the live index with its number of lots, and the caches, circuits and queues of this process."""
        search_service = service()
        index = search_service.live().index
        return Health(
            status="ok",
            index=index.name,
            tower_id=index.tower_id,
            query_tower=search_service.query_tower,
            items=index.count(),
            damaged=index.damaged(),
            caches=cache_counts(search_service.caches()),
            circuits=dict(search_service.circuits()),
            queues={name: Queue.model_validate(counts) for name, counts in queues().items()},
        )


class _SimilarRoute(StrictRoute):
    """A route that leaves `/items/a%2Fsimilar` to the item `a/similar`. On AWS paths arrive decoded, so there it means item `a`."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return if the path matches this route, and the parameters of the path."""
        if (scope.get("raw_path") or b"").lower().endswith(b"%2fsimilar"):
            return Match.NONE, {}
        return super().matches(scope)


def _add_nearest(app: FastAPI, service: Service) -> None:
    def similar(
        item_id: Annotated[str, Path(min_length=1, max_length=MAX_ID_BYTES, examples=["v1"])],
        query: Annotated[Nearest, Query()],
    ) -> Answer:
        """Find the lots nearest to a lot, without the lot itself. The auction of that lot may have ended."""
        return Answer.of(service().similar(item_id, query.k, query.to_filter()))

    app.router.add_api_route(
        "/items/{item_id:path}/similar", similar, responses=UNKNOWN_ITEM, route_class_override=_SimilarRoute, methods=["GET"]
    )

    @app.get("/items/{item_id:path}", responses=UNKNOWN_ITEM)
    def item(item_id: Annotated[ItemId, Path(examples=["v1"])]) -> ItemDetails:
        """Read all fields of a lot, also after the end of its auction (`ends_at`)."""
        item_id, state = require_id("item_id", item_id), service().item_state(item_id)
        return ItemDetails(item_id=item_id, fields=service().item(item_id), state_versions=dict(state.versions) if state else {})

    @app.post("/encode_query", responses=BAD_BODY)
    def encode_query(body: QueryText) -> EncodedQuery:
        """Encode a query as a vector with the query tower of the live index. `/retrieve` takes it as `vector`."""
        vector, tower_id = service().encode_query(body.query)
        return EncodedQuery(query_embedding=vector.tolist(), dimension=len(vector), tower_id=tower_id)

    @app.post("/encode_buyer", responses=BAD_BODY)
    def encode_buyer(body: BuyerEvents) -> EncodedBuyer:
        """Encode a buyer as a vector with the buyer tower, from recent interactions and the stored interactions of the buyer_id.

        Without a trained buyer tower the vector is the weighted average of the lots' vectors.
        """
        if not body.recent_interactions and not body.buyer_id:
            raise InvalidQuery("send recent_interactions with at least one, or a buyer_id with a stored history")
        return EncodedBuyer.of(service().encode_buyer(to_interactions(body.recent_interactions), buyer_id=body.buyer_id or ""))

    def nearest(query: RetrieveQuery | RetrieveBody) -> RetrieveAnswer:
        interactions, options = query.interactions(), query.to_options()
        of_buyer = bool(interactions or query.buyer_id)
        if of_buyer == bool(query.vector):
            raise InvalidQuery("send either a vector or a buyer, by buyer_id or by what they did, and not both")
        if of_buyer:
            filters, buyer_id = query.to_filter(), query.buyer_id or ""
            return RetrieveAnswer.of(
                service().nearest_to_buyer(
                    interactions, query.k, filters, buyer_id=buyer_id, exclude=query.exclude, options=options
                )
            )
        return RetrieveAnswer.of(service().nearest(query.vector, query.k, query.to_filter(), options))

    @app.get("/retrieve")
    def retrieve(query: Annotated[RetrieveQuery, Query()]) -> RetrieveAnswer:
        """Find the lots nearest to a vector or a buyer, re-ranked. A buyer_id without a history gets popular and fresh lots."""
        return nearest(query)

    @app.post("/retrieve", responses=BAD_BODY)
    def retrieve_by_body(body: RetrieveBody) -> RetrieveAnswer:
        """Find the lots nearest to a vector or a buyer, re-ranked. A buyer_id without a history gets popular and fresh lots."""
        return nearest(body)


def _describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description without the 422 that FastAPI adds, because malformed requests are answered with 400."""
    if app.openapi_schema is None:
        description = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path in description["paths"].values():
            for operation in path.values():
                if PROBLEM_TYPE not in operation["responses"].get("422", {}).get("content", {}):
                    operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            description["components"]["schemas"].pop(unused, None)
        app.openapi_schema = description
    return app.openapi_schema
