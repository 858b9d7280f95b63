"""A state machine with complete logs and traces."""

import json

from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as stepfunctions
from constructs import Construct

from infra.acknowledgements import acknowledge
from infra.embedding_job import State
from infra.log_group import log_group
from infra.stage import Stage

DELIVERY = "CloudWatch Logs and X-Ray take no resource for log deliveries and traces."


def state_machine(scope: Construct, id: str, stage: Stage, definition: State, role: iam.Role) -> stepfunctions.StateMachine:
    """Create a state machine from its definition, with its own log group."""
    machine = stepfunctions.StateMachine(
        scope,
        id,
        # not Stack.to_json_string(), because that drops nulls: without `"ResultPath": null` a state's result replaces its input
        definition_body=stepfunctions.DefinitionBody.from_string(json.dumps(definition)),
        role=role,
        tracing_enabled=True,
        logs=stepfunctions.LogOptions(
            destination=log_group(scope, f"{id}Logs", stage, f"/aws/vendedlogs/states/gavel-{stage.name}-{id}"),
            level=stepfunctions.LogLevel.ALL,
            include_execution_data=True,
        ),
    )
    acknowledge(role, {"IAM5[Resource::*]": DELIVERY})
    return machine
