"""The CDK app: one stage of Gavel, checked against the AwsSolutions rules at every synth.

Sizes, and all that differs between the stages, stand in cdk.json; `-c stage=prod` chooses. Nothing here asks an account.
"""

from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks

from infra.stacks import compose
from infra.stage import read_stage

app = App()
stage = read_stage(app.node.try_get_context("stages"), app.node.try_get_context("stage"))
compose(app, stage)
Validations.of(app).add_plugins(AwsSolutionsChecks(app))
app.synth()
