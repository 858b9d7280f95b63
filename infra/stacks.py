"""The four stacks of a stage, and the constructs of each."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aws_cdk import App, Stack, Tags

from infra.bulk_indexer import BulkIndexer
from infra.buyer_events import BuyerEvents
from infra.event_stream import EventStream
from infra.index_operations import IndexOperations
from infra.item_states import ItemStates
from infra.item_store import ItemStore
from infra.monitoring import StageMonitoring
from infra.network import Network
from infra.nightly_batch import NightlyBatch
from infra.query_api import QueryApi
from infra.query_snapshot import QuerySnapshot
from infra.rebuild import Rebuild
from infra.reranker import Reranker
from infra.stage import Stage
from infra.stage_outputs import publish
from infra.vector_index import VectorIndex
from retrieval.config.settings import Settings

INDEX_ALIAS = Settings().index_alias


class Storage(Stack):
    """The stack of the data that must never be lost: buckets, buyers' interactions, OpenSearch, and the network."""

    def __init__(self, app: App, stage: Stage, **settings: Any) -> None:
        super().__init__(app, f"Gavel-{stage.name}-Storage", termination_protection=stage.protect, **settings)
        self.network = Network(self, "Network", stage=stage)
        self.store = ItemStore(self, "ItemStore", stage=stage)
        self.buyers = BuyerEvents(self, "BuyerEvents", stage=stage)
        self.index = VectorIndex(self, "VectorIndex", stage=stage, network=self.network, alias=INDEX_ALIAS)
        self._publish()

    def _publish(self) -> None:
        store = self.store
        publish(
            self,
            NewItemsBucket=store.new_items.bucket_name,
            EmbeddingsBucket=store.embeddings.bucket_name,
            TowersBucket=store.towers.bucket_name,
            ReleasesBucket=store.releases.bucket_name,
            EventsBucket=store.events.bucket_name,
            BuyerEventsTable=self.buyers.table.table_name,
            ArrivalsDeadLetters=store.dead_letters.queue_url,
        )


class Serving(Stack):
    """The stack of the bulk indexer, the query API, the re-ranker and the event stream."""

    def __init__(self, app: App, stage: Stage, storage: Storage, **settings: Any) -> None:
        super().__init__(app, f"Gavel-{stage.name}-Serving", **settings)
        base = Settings(
            index="opensearch",
            opensearch_url=storage.index.url,
            opensearch_auth="sigv4",
            index_alias=storage.index.alias,
            index_shards=stage.index_shards,
            index_replicas=stage.index_replicas,
            language=stage.language,
            cors_origins=",".join(stage.cors_origins),
            towers_uri=f"s3://{storage.store.towers.bucket_name}",
            query_tower=stage.query_tower,
            stage=stage.name,
        )
        self.indexer = BulkIndexer(
            self,
            "BulkIndexer",
            stage=stage,
            network=storage.network,
            store=storage.store,
            index=storage.index,
            settings=replace(base, embeddings_bucket=storage.store.embeddings.bucket_name),
        )
        self.reranker: Reranker | None = None  # until a re-ranker is published, searches answer in first-stage order
        if stage.reranker and stage.reranker.model_key:
            self.reranker = Reranker(
                self, "Reranker", stage=stage, store=storage.store, artefact=stage.reranker, model_key=stage.reranker.model_key
            )
        self.events = EventStream(self, "EventStream", stage=stage, store=storage.store)
        of_queries = replace(
            base,
            ranker_endpoint=self.reranker.name if self.reranker else "",
            events_stream=self.events.name,
            buyer_events_table=storage.buyers.table.table_name,
            # a key's quota counts requests, so each request may hold only one search
            queries_per_request=1 if stage.api_auth == "api_key" else base.queries_per_request,
        )
        self.api = QueryApi(
            self,
            "QueryApi",
            stage=stage,
            network=storage.network,
            store=storage.store,
            index=storage.index,
            settings=of_queries,
        )
        self.operations = IndexOperations(
            self, "IndexOperations", stage=stage, network=storage.network, index=storage.index, settings=base
        )
        self.states = ItemStates(self, "ItemStates", stage=stage, network=storage.network, index=storage.index, settings=base)
        self.states.add_routes(self.api.api)
        self.snapshot = QuerySnapshot(self, "QuerySnapshot", stage=stage, api=self.api)
        self.events.allow_put(self.api.role)
        storage.buyers.allow_use(self.api.role)
        if self.reranker:
            self.reranker.allow_invoke(self.api.role)
        self._publish()

    def _publish(self) -> None:
        publish(
            self,
            ApiUrl=self.api.api.url,
            SearchFunction=self.api.live.function_arn,
            BulkIndexerFunction=self.indexer.function.function_arn,
            SnapshotFunction=self.snapshot.function.function_arn,
            IndexReader=self.operations.read.function_arn,
            IndexOperator=self.operations.change.function_arn,
            EventsStream=self.events.name,
            StatesQueue=self.states.queue.queue_url,
            StatesDeadLetters=self.states.dead_letters.queue_url,
            StatesFunction=self.states.function.function_arn,
            **({"ApiKeyId": self.api.key.key_id} if self.api.key else {}),
            **({"RerankerEndpoint": self.reranker.name} if self.reranker else {}),
        )


class Batch(Stack):
    """The stack of the nightly run and of the rebuild for a new tower."""

    def __init__(self, app: App, stage: Stage, storage: Storage, **settings: Any) -> None:
        super().__init__(app, f"Gavel-{stage.name}-Batch", **settings)
        self.nightly = NightlyBatch(self, "NightlyBatch", stage=stage, store=storage.store)
        self.rebuild = Rebuild(self, "Rebuild", stage=stage, store=storage.store, nightly=self.nightly)
        publish(
            self,
            JobRole=self.nightly.places.job_role_arn,
            TrainingRole=self.nightly.training_role.role_arn,
            ProcessingImage=self.nightly.places.image,
            CodeUri=self.nightly.places.code_uri,
            NoticesTopic=self.nightly.notices.topic_arn,
            FindDayMachine=self.nightly.find_day.state_machine_arn,
            EmbedDayMachine=self.nightly.embed_day.state_machine_arn,
            RebuildMachine=self.rebuild.machine.state_machine_arn,
        )


class Monitoring(Stack):
    """The stack of dashboard, alarms and budget."""

    def __init__(self, app: App, stage: Stage, storage: Storage, serving: Serving, batch: Batch, **settings: Any) -> None:
        super().__init__(app, f"Gavel-{stage.name}-Monitoring", **settings)
        self.monitoring = StageMonitoring(
            self,
            "Monitoring",
            stage=stage,
            store=storage.store,
            index=storage.index,
            nightly=batch.nightly,
            rebuild=batch.rebuild,
            indexer=serving.indexer,
            api=serving.api,
            events=serving.events,
            buyers=storage.buyers,
            states=serving.states,
            guards=serving.reranker.alarms if serving.reranker else [],
        )


def compose(app: App, stage: Stage, **settings: Any) -> Mapping[str, Stack]:
    """Create the stacks of a stage in an app.

    Args:
        app: the CDK app.
        stage: settings of the stage.
        settings: further arguments of every stack, such as env.

    Returns:
        Last word of the stack's name -> stack.
    """
    storage = Storage(app, stage, description="Gavel: buckets, network, OpenSearch", **settings)
    serving = Serving(app, stage, storage, description="Gavel: bulk indexer and query API", **settings)
    batch = Batch(app, stage, storage, description="Gavel: the nightly run, rebuilds", **settings)
    monitoring = Monitoring(app, stage, storage, serving, batch, description="Gavel: dashboard, alarms, budget", **settings)
    Tags.of(app).add("gavel:stage", stage.name)
    return {"Storage": storage, "Serving": serving, "Batch": batch, "Monitoring": monitoring}
