"""The metrics that the functions publish, as CloudWatch finds them again.

A metric is its name and all of its dimensions: these here must be those of the runtime's
``telemetry.py``.
"""

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

NAMESPACE = "Stepvault"
#: Powertools adds it to every metric.
SERVICE = "stepvault"


class Metrics:
    """The metrics of one stack: two stacks in an account do not silence each other."""

    def __init__(self, scope: Construct) -> None:
        self.common = {"service": SERVICE, "stack": Stack.of(scope).stack_name}

    def of_engine(
        self, engine: str, name: str, statistic: str, period: Duration
    ) -> cloudwatch.Metric:
        """Find a metric of one engine's units."""
        return self._metric(name, statistic, period, engine=engine)

    def of_schedule(self, schedule: str, name: str, period: Duration) -> cloudwatch.Metric:
        """Find a metric of one schedule."""
        return self._metric(name, "Maximum", period, schedule=schedule)

    def of_runs(self, name: str, period: Duration) -> cloudwatch.Metric:
        """Find how many times something happened to any run."""
        return self._metric(name, "Sum", period)

    def of_sources(
        self, name: str, statistic: str, period: Duration, label: str = ""
    ) -> cloudwatch.MathExpression:
        """Find a metric of every source, however many there are, now and later."""
        stack = self.common["stack"]
        return cloudwatch.MathExpression(
            expression=f'SEARCH(\'{{{NAMESPACE},service,source,stack}} MetricName="{name}" '
            f"stack=\"{stack}\"', '{statistic}', {period.to_seconds()})",
            using_metrics={},
            label=label,
            period=period,
        )

    def _metric(
        self, name: str, statistic: str, period: Duration, **dimensions: str
    ) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=NAMESPACE,
            metric_name=name,
            dimensions_map={**self.common, **dimensions},
            statistic=statistic,
            period=period,
        )
