"""EventBridge Scheduler: one schedule per entry of the configuration."""

import json

from aws_cdk import Acknowledgment, Duration, Validations
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.roles import Allow, closed_role
from infra.settings import Schedule


class Schedules(Construct):
    """Start the Backup machine when the configuration says so."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        schedules: tuple[Schedule, ...],
        machine: sfn.StateMachine,
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
                Allow(["sqs:SendMessage"], [missed.queue_arn]),
            ],
        )
        for schedule in schedules:
            chosen = {"sources": list(schedule.sources)} if schedule.sources else {}
            scheduler.CfnSchedule(
                self,
                schedule.name,
                description=f"Stepvault backs up {', '.join(schedule.sources) or 'all sources'}",
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
