"""The rebuild for a new tower: the state machine of rebuild_states.py, which is started by hand."""

from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.embedding_job import REBUILD_VOLUME_GB, JobSize
from infra.item_store import ItemStore
from infra.machine_roles import release_role
from infra.nightly_batch import NightlyBatch
from infra.nightly_states import CURRENT_TOWER
from infra.rebuild_states import rebuild
from infra.stage import Stage
from infra.state_machine import state_machine


class Rebuild(Construct):
    """The rebuild of the index for a new tower.

    Attributes:
        machine: state machine whose input is {"tower_id": …}.
    """

    def __init__(self, scope: Construct, id: str, *, stage: Stage, store: ItemStore, nightly: NightlyBatch) -> None:
        super().__init__(scope, id)
        size = JobSize(stage.instance_ladder, stage.rebuild_instance_count, stage.rebuild_hours, REBUILD_VOLUME_GB)
        find_day = nightly.find_day.state_machine_arn
        role = release_role(self, "Role", store, nightly.places)
        current = store.towers.arn_for_objects(CURRENT_TOWER)
        role.add_to_policy(iam.PolicyStatement(actions=["s3:PutObject"], resources=[current]))
        role.add_to_policy(iam.PolicyStatement(actions=["states:StartExecution"], resources=[find_day]))
        self.machine = state_machine(self, "Rebuild", stage, rebuild(nightly.places, size, find_day), role)
