"""EventBridge Scheduler: one schedule per entry of the configuration."""

import json

from aws_cdk import Acknowledgment, Duration, Validations
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.roles import Allow, closed_role
from infra.settings import Schedule

#: Characters that EventBridge Scheduler allows in a schedule's description.
DESCRIPTION_CHARACTERS = 512


class Schedules(Construct):
    """Start the Backup machine when the configuration says so, and check that it was."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        schedules: tuple[Schedule, ...],
        machine: sfn.StateMachine,
        check: lambda_.IFunction,
    ) -> None:
        super().__init__(scope, name)
        if not schedules:
            return
        missed = sqs.Queue(
            self,
            "Missed",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(14),
        )
        Validations.of(missed).acknowledge(
            Acknowledgment(
                id="AwsSolutions-SQS3", reason="This is the schedules' dead-letter queue"
            )
        )
        role = closed_role(
            self,
            "Role",
            "scheduler.amazonaws.com",
            [
                Allow(["states:StartExecution"], [machine.state_machine_arn]),
                Allow(["lambda:InvokeFunction"], [check.function_arn]),
                Allow(["sqs:SendMessage"], [missed.queue_arn]),
            ],
        )
        if any(schedule.watched for schedule in schedules):
            scheduler.CfnSchedule(
                self,
                "Check",
                description="Stepvault: says every hour which schedules have a run overdue",
                schedule_expression="rate(1 hour)",
                flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
                target=scheduler.CfnSchedule.TargetProperty(
                    arn=check.function_arn, role_arn=role.role_arn
                ),
            )
        for schedule in schedules:
            chosen = {"sources": list(schedule.sources)} if schedule.sources else {}
            scheduler.CfnSchedule(
                self,
                f"Schedule-{schedule.name}",
                description=_description(schedule),
                schedule_expression=schedule.when,
                schedule_expression_timezone=schedule.timezone,
                flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
                target=scheduler.CfnSchedule.TargetProperty(
                    arn=machine.state_machine_arn,
                    role_arn=role.role_arn,
                    input=json.dumps({"schedule": schedule.name, **chosen}),
                    # A start that fails for an hour is told by the alarm on missed runs, and
                    # the queue keeps why.
                    retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                        maximum_event_age_in_seconds=3600, maximum_retry_attempts=20
                    ),
                    dead_letter_config=scheduler.CfnSchedule.DeadLetterConfigProperty(
                        arn=missed.queue_arn
                    ),
                ),
            )


def _description(schedule: Schedule) -> str:
    """Say what the schedule backs up, as far as there is room for it."""
    text = f"Stepvault, {schedule.name}: backs up {', '.join(schedule.sources) or 'all sources'}"
    if len(text) <= DESCRIPTION_CHARACTERS:
        return text
    return f"Stepvault, {schedule.name}: backs up {len(schedule.sources)} sources"
