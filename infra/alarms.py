"""Who hears about trouble, and what counts as trouble."""

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.metrics import Metrics
from infra.settings import Notifications, Settings

MEMORY_PERCENT = 90
#: Hours without a word of the hourly check before it counts as silent.
SILENT_HOURS = 3


def topic(scope: Construct, chosen: Notifications) -> sns.ITopic | None:
    """Give the topic of the settings, or one with the addresses subscribed, or None."""
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
    """A failed run, an overdue run, too little memory, a size out of line.

    None of them is per source: a hundred databases have as many alarms as one.
    """

    def __init__(
        self,
        scope: Construct,
        name: str,
        settings: Settings,
        backup: sfn.StateMachine,
        topic: sns.ITopic | None,
    ) -> None:
        super().__init__(scope, name)
        self._topic = topic
        metrics = Metrics(self)
        minutes, hour = Duration.minutes(5), Duration.hours(1)
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
            if not schedule.watched:
                continue
            self._alarm(
                f"Missed-{schedule.name}",
                metrics.of_schedule(schedule.name, "Overdue", hour),
                f"Schedule {schedule.name}: a run that was due has sealed nothing within "
                f"{schedule.window_hours} hours. Is the schedule enabled? 'stepvault runs' shows "
                "what ran. Without data: the function that checks the schedules does not run",
                periods=SILENT_HOURS,
                points=1,
                missing=cloudwatch.TreatMissingData.MISSING,
                on_silence=True,
            )
        for engine in settings.engines:
            self._alarm(
                f"Memory-{engine}",
                metrics.of_engine(engine, "PeakMemoryPercent", "Maximum", minutes),
                f"Backing up a {engine} source took {MEMORY_PERCENT} % of its function's memory, "
                f"children included: raise limits.memory.{engine}; 'stepvault show' names the unit",
                threshold=MEMORY_PERCENT,
            )
        self._alarm(
            "Size",
            metrics.of_runs("SizesUnusual", minutes),
            "A backup is unlike those before it in size: 'stepvault show' names it. Look at it "
            "before retention lets the old ones go",
        )

    def _alarm(
        self,
        name: str,
        metric: cloudwatch.IMetric,
        description: str,
        *,
        threshold: float = 1,
        periods: int = 1,
        points: int = 1,
        missing: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING,
        on_silence: bool = False,
    ) -> None:
        alarm = cloudwatch.Alarm(
            self,
            name,
            alarm_description=description,
            metric=metric,
            threshold=threshold,
            comparison_operator=(cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD),
            evaluation_periods=periods,
            datapoints_to_alarm=points,
            treat_missing_data=missing,
        )
        if self._topic:
            alarm.add_alarm_action(actions.SnsAction(self._topic))
            if on_silence:
                alarm.add_insufficient_data_action(actions.SnsAction(self._topic))
