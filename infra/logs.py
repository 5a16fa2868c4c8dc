"""Log groups that end with the stack and forget in time."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_logs as logs
from constructs import Construct


def log_group(scope: Construct, name: str, log_group_name: str, days: int) -> logs.LogGroup:
    """Make a log group that keeps its lines for so many days (a number that CloudWatch Logs offers)."""
    made = logs.LogGroup(
        scope, name, log_group_name=log_group_name, removal_policy=RemovalPolicy.DESTROY
    )
    resource = made.node.default_child
    assert isinstance(resource, logs.CfnLogGroup)  # noqa: S101 - tells mypy what the CDK makes
    resource.retention_in_days = days
    return made
