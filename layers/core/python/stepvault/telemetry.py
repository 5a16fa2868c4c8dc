"""Logs, metrics and traces through Powertools; imported by functions only.

Metrics leave as EMF lines of the log, which CloudWatch turns into metrics; traces go to X-Ray.
Namespace and service come from the POWERTOOLS_* variables that ``infra`` sets.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault.deadline import Deadline
from stepvault.env import memory_limit
from stepvault.errors import StepvaultError
from stepvault.governor import Governor
from stepvault.records import Receipt, Summary, Unit

logger = Logger()
tracer = Tracer()

Handler = Callable[[dict[str, Any], LambdaContext], dict[str, Any]]


def observed(handler: Handler) -> Handler:
    """Give a handler structured logs and a trace.

    An error is logged with its class and passes on unchanged, so that Step Functions sees it.
    """

    @logger.inject_lambda_context(clear_state=True)
    @tracer.capture_lambda_handler(capture_response=False)
    @wraps(handler)
    def run(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        try:
            return handler(event, context)
        except StepvaultError as error:
            logger.error(str(error), error=type(error).__name__)
            _publish({}, Errors=(MetricUnit.Count, 1))
            raise

    observing: Handler = run
    return observing


def deadline(context: LambdaContext) -> Deadline:
    """The time Lambda still gives this invocation."""
    return Deadline(context.get_remaining_time_in_millis() / 1000)


def governor(unit: Unit) -> Governor:
    """A governor for this function's memory that warns in the log and as a metric."""

    def warn(used: int, limit: int) -> None:
        logger.warning("memory is over 80 % of the limit", used=used, limit=limit)
        about = {"source": unit.source.name, "engine": unit.source.engine}
        _publish(about, MemoryWarning=(MetricUnit.Count, 1))

    return Governor(memory_limit(), warn)


def report_unit(receipt: Receipt) -> dict[str, Any]:
    """Metrics and a log line of a stored unit; returns the function's small result."""
    seconds = max((receipt.ended - receipt.started).total_seconds(), 0.001)
    profile = receipt.profile
    name = receipt.source
    published = {
        "RawBytes": (MetricUnit.Bytes, receipt.raw_bytes),
        "StoredBytes": (MetricUnit.Bytes, receipt.stored_bytes),
        "Seconds": (MetricUnit.Seconds, seconds),
        "Throughput": (MetricUnit.MegabytesPerSecond, receipt.raw_bytes / 1e6 / seconds),
        f"Bottleneck{profile.bottleneck.capitalize()}": (MetricUnit.Count, 1),
    }
    if limit := memory_limit():
        published["PeakMemoryPercent"] = (MetricUnit.Percent, 100 * profile.peak_memory / limit)
    _publish({"source": name, "engine": receipt.engine}, **published)
    tracer.put_annotation("source", name)
    tracer.put_annotation("bottleneck", profile.bottleneck)
    tracer.put_metadata("profile", profile.model_dump())
    result = {
        "source": name,
        "unit": receipt.unit,
        "objects": len(receipt.objects),
        "raw_bytes": receipt.raw_bytes,
        "stored_bytes": receipt.stored_bytes,
        "seconds": round(seconds, 3),
        "bottleneck": profile.bottleneck,
        "skipped": receipt.skipped,
    }
    for warning in receipt.warnings:
        logger.warning(warning, source=name)
    logger.info("unit stored", extra=result)
    return result


def report_run(summary: Summary) -> None:
    """Metrics of a whole run, for its alarms: sealed and failed sources, by schedule."""
    states: list[str] = [result.status for result in summary.sources]
    counts = {
        "SourcesSealed": (MetricUnit.Count, states.count("sealed")),
        "SourcesFailed": (MetricUnit.Count, states.count("failed")),
    }
    _publish({}, **counts)
    if summary.schedule:
        _publish({"schedule": summary.schedule}, **counts)
    for result in summary.sources:
        if result.status == "sealed":
            about = {"source": result.source, "engine": result.engine}
            _publish(about, BackupBytes=(MetricUnit.Bytes, result.stored_bytes))


def _publish(dimensions: dict[str, str], **values: tuple[MetricUnit, float]) -> None:
    """One EMF line; Powertools adds the service as a dimension."""
    metrics = EphemeralMetrics()
    for dimension, of in dimensions.items():
        metrics.add_dimension(dimension, of)
    for name, (unit, value) in values.items():
        metrics.add_metric(name, unit, value)
    metrics.flush_metrics()
