"""The metrics that the functions publish, as CloudWatch finds them again.

A metric is its name and all of its dimensions: these here must be those of the runtime's
``telemetry.py``.
"""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from infra.settings import Place

NAMESPACE = "Stepvault"
#: Powertools adds it to every metric.
SERVICE = {"service": "stepvault"}


def of_source(source: Place, name: str, statistic: str, period: Duration) -> cloudwatch.Metric:
    """A metric of one source's units."""
    return cloudwatch.Metric(
        namespace=NAMESPACE,
        metric_name=name,
        dimensions_map={**SERVICE, "source": source.name, "engine": str(source.engine)},
        statistic=statistic,
        period=period,
    )


def of_schedule(schedule: str, name: str, period: Duration) -> cloudwatch.Metric:
    """How many times something happened to the runs of one schedule."""
    return cloudwatch.Metric(
        namespace=NAMESPACE,
        metric_name=name,
        dimensions_map={**SERVICE, "schedule": schedule},
        statistic="Sum",
        period=period,
    )


def of_runs(name: str, period: Duration) -> cloudwatch.Metric:
    """How many times something happened to any run."""
    return cloudwatch.Metric(
        namespace=NAMESPACE,
        metric_name=name,
        dimensions_map=SERVICE,
        statistic="Sum",
        period=period,
    )
