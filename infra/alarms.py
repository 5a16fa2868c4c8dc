"""Who hears about trouble, and what counts as trouble."""

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra import metrics
from infra.local import Platform
from infra.settings import Notifications, Place, Settings

MEMORY_PERCENT = 90
#: Standard deviations that the size of a backup may differ from what its past suggests.
WIDTH = 4

_OVER = cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
_UNDER = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
_QUIET = cloudwatch.TreatMissingData.NOT_BREACHING
_LOUD = cloudwatch.TreatMissingData.BREACHING


def topic(scope: Construct, chosen: Notifications) -> sns.ITopic | None:
    """The topic of the settings, or one with the addresses subscribed, or None."""
    if chosen.topic_arn:
        return sns.Topic.from_topic_arn(scope, "Topic", chosen.topic_arn)
    if not chosen.email:
        return None
    made = sns.Topic(scope, "Topic", display_name="Stepvault", enforce_ssl=True)
    # The rule on TLS replaces SNS's own policy, which let the account's alarms publish.
    made.add_to_resource_policy(
        iam.PolicyStatement(
            actions=["sns:Publish"],
            principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
            resources=[made.topic_arn],
            conditions={"StringEquals": {"aws:SourceAccount": Stack.of(made).account}},
        )
    )
    for address in chosen.email:
        made.add_subscription(subscriptions.EmailSubscription(address))
    return made


class Alarms(Construct):
    """A failed run, a missed run, too little memory, a size out of line."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        settings: Settings,
        backup: sfn.StateMachine,
        told: sns.ITopic | None,
        platform: Platform,
    ) -> None:
        super().__init__(scope, name)
        self._told = told
        minutes = Duration.minutes(5)
        for what, metric in {
            "Failed": backup.metric_failed(period=minutes, statistic="Sum"),
            "TimedOut": backup.metric_timed_out(period=minutes, statistic="Sum"),
            "Aborted": backup.metric_aborted(period=minutes, statistic="Sum"),
        }.items():
            self._alarm(
                f"Run{what}",
                metric,
                "A backup run did not finish. 'stepvault runs' shows which, 'stepvault show' why; "
                "a redrive in the Step Functions console finishes what is missing",
            )
        for schedule in settings.schedules:
            hours = schedule.window_hours
            if hours == 0 or schedule.when.startswith("at("):
                continue  # not wanted; or once only, and then silence is right
            self._alarm(
                f"Missed-{schedule.name}",
                metrics.of_schedule(schedule.name, "SourcesSealed", Duration.hours(1)),
                f"Schedule {schedule.name} has sealed nothing for {hours} hours",
                threshold=1,
                comparison=_UNDER,
                hours=hours,
                missing=_LOUD,
            )
        for source in settings.sources:
            self._alarm(
                f"Memory-{source.name}",
                metrics.of_source(source, "PeakMemoryPercent", "Maximum", minutes),
                f"Backing up {source.name} took {MEMORY_PERCENT} % of its function's memory: "
                f"raise limits.memory.{source.engine}",
                threshold=MEMORY_PERCENT,
            )
            if platform.anomaly_alarms:
                self._size(source)

    def _size(self, source: Place) -> None:
        """A backup that is suspiciously small or large, by what CloudWatch learnt of its past."""
        made = cloudwatch.AnomalyDetectionAlarm(
            self,
            f"Size-{source.name}",
            alarm_description=f"The latest backup of {source.name} is unlike those before it in "
            "size: look at it before retention lets the old ones go",
            metric=metrics.of_source(source, "BackupBytes", "Maximum", Duration.days(1)),
            std_devs=WIDTH,
            comparison_operator=(
                cloudwatch.ComparisonOperator.LESS_THAN_LOWER_OR_GREATER_THAN_UPPER_THRESHOLD
            ),
            evaluation_periods=1,
            treat_missing_data=_QUIET,
        )
        if self._told:
            made.add_alarm_action(actions.SnsAction(self._told))

    def _alarm(
        self,
        name: str,
        metric: cloudwatch.IMetric,
        description: str,
        *,
        threshold: float = 1,
        comparison: cloudwatch.ComparisonOperator = _OVER,
        hours: int = 1,
        missing: cloudwatch.TreatMissingData = _QUIET,
    ) -> None:
        made = cloudwatch.Alarm(
            self,
            name,
            alarm_description=description,
            metric=metric,
            threshold=threshold,
            comparison_operator=comparison,
            evaluation_periods=hours,
            treat_missing_data=missing,
        )
        if self._told:
            made.add_alarm_action(actions.SnsAction(self._told))
