"""Logs, metrics and traces through Powertools; imported by functions only.

Metrics leave as EMF lines of the log, which CloudWatch turns into metrics; traces go to X-Ray.
Namespace and service come from the POWERTOOLS_* variables that ``infra`` sets.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit, single_metric
from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault.deadline import Deadline
from stepvault.env import memory_limit
from stepvault.errors import StepvaultError
from stepvault.governor import Governor
from stepvault.models import Receipt, Summary, Unit

logger = Logger()
metrics = Metrics()
tracer = Tracer()

Handler = Callable[[dict[str, Any], LambdaContext], dict[str, Any]]


def observed(handler: Handler) -> Handler:
    """Give a handler structured logs, flushed metrics and a trace.

    An error is logged with its class and passes on unchanged, so that Step Functions sees it.
    """

    @metrics.log_metrics
    @logger.inject_lambda_context(clear_state=True)
    @tracer.capture_lambda_handler(capture_response=False)
    @wraps(handler)
    def run(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        try:
            return handler(event, context)
        except StepvaultError as error:
            logger.error(str(error), error=type(error).__name__)
            metrics.add_metric("Errors", MetricUnit.Count, 1)
            raise

    return run


def deadline(context: LambdaContext) -> Deadline:
    """The time Lambda still gives this invocation."""
    return Deadline(context.get_remaining_time_in_millis() / 1000)


def governor(unit: Unit) -> Governor:
    """A governor for this function's memory that warns in the log and as a metric."""

    def warn(used: int, limit: int) -> None:
        logger.warning("memory is over 80 % of the limit", used=used, limit=limit)
        _about(unit.source.name, unit.source.engine, "MemoryWarning", MetricUnit.Count, 1)

    return Governor(memory_limit(), warn)


def report_unit(receipt: Receipt) -> dict[str, Any]:
    """Metrics and a log line of a stored unit; returns the function's small result."""
    seconds = max((receipt.ended - receipt.started).total_seconds(), 0.001)
    profile = receipt.profile
    limit = memory_limit()
    name, engine = receipt.source, receipt.engine
    _about(name, engine, "RawBytes", MetricUnit.Bytes, receipt.raw_bytes)
    _about(name, engine, "StoredBytes", MetricUnit.Bytes, receipt.stored_bytes)
    _about(name, engine, "Seconds", MetricUnit.Seconds, seconds)
    megabytes = receipt.raw_bytes / 1e6
    _about(name, engine, "Throughput", MetricUnit.MegabytesPerSecond, megabytes / seconds)
    if limit:
        share = 100 * profile.peak_memory / limit
        _about(name, engine, "PeakMemoryPercent", MetricUnit.Percent, share)
    bottleneck = f"Bottleneck{profile.bottleneck.capitalize()}"
    _about(name, engine, bottleneck, MetricUnit.Count, 1)
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
    for metric, state in (("SourcesSealed", "sealed"), ("SourcesFailed", "failed")):
        metrics.add_metric(metric, MetricUnit.Count, states.count(state))
        if summary.schedule:
            with single_metric(metric, MetricUnit.Count, states.count(state)) as one:
                one.add_dimension("schedule", summary.schedule)
    for result in summary.sources:
        if result.status == "sealed":
            _about(
                result.source, result.engine, "BackupBytes", MetricUnit.Bytes, result.stored_bytes
            )


def _about(source: str, engine: str, name: str, unit: MetricUnit, value: float) -> None:
    with single_metric(name, unit, value) as metric:
        metric.add_dimension("source", source)
        metric.add_dimension("engine", engine)
