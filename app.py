"""The CDK app: one stage of Gavel, checked against the AwsSolutions rules at every synth.

Sizes, and all that differs between the stages, stand in cdk.json; `-c stage=prod` chooses. Nothing here asks an account: the
published re-ranker of a stage stands in cdk.context.json, where `gavel aws publish-ranker` writes its key.
"""

from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks

from infra.stacks import compose
from infra.stage import RERANKER_CONTEXT, read_stage

app = App()
name = app.node.try_get_context("stage")
stage = read_stage(app.node.try_get_context("stages"), name, app.node.try_get_context(f"{RERANKER_CONTEXT}{name}"))
compose(app, stage)
Validations.of(app).add_plugins(AwsSolutionsChecks(app))
app.synth()
