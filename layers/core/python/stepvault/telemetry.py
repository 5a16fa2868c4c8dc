"""Logs, metrics and traces through Powertools; imported by functions only.

Metrics leave as EMF lines of the log, which CloudWatch turns into metrics; traces go to X-Ray.
Namespace and service come from the POWERTOOLS_* variables that ``infra`` sets.

No library is patched for tracing: a patched ``sqlite3`` hands out proxies that its own ``backup``
refuses, and a document for every statement and every request to S3 would cost more than it tells.
Instead each unit's stages are one document each, made from its profile.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault.deadline import Deadline
from stepvault.env import memory_limit, stack_name
from stepvault.errors import StepvaultError
from stepvault.governor import Governor
from stepvault.overdue import Overdue
from stepvault.records import Receipt, Summary, Unit

logger = Logger()
tracer = Tracer(auto_patch=False)

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
    """Return the time that Lambda still gives this invocation."""
    return Deadline(context.get_remaining_time_in_millis() / 1000)


def governor(unit: Unit) -> Governor:
    """Make a governor for this function's memory that warns in the log and as a metric."""

    def warn(used: int, limit: int) -> None:
        logger.warning("memory is over 80 % of the limit", used=used, limit=limit)
        about = {"source": unit.source.name}
        _publish({"engine": unit.source.engine}, about, MemoryWarning=(MetricUnit.Count, 1))

    return Governor(memory_limit(), warn)


def report_unit(receipt: Receipt) -> dict[str, Any]:
    """Publish metrics and a log line of a stored unit.

    Returns:
        The function's small result.
    """
    seconds = max((receipt.ended - receipt.started).total_seconds(), 0.001)
    profile = receipt.profile
    name = receipt.source
    values = {
        "RawBytes": (MetricUnit.Bytes, receipt.raw_bytes),
        "StoredBytes": (MetricUnit.Bytes, receipt.stored_bytes),
        "Throughput": (MetricUnit.MegabytesPerSecond, receipt.raw_bytes / 1e6 / seconds),
        f"Bottleneck{profile.bottleneck.capitalize()}": (MetricUnit.Count, 1),
    }
    if limit := memory_limit():
        values["PeakMemoryPercent"] = (MetricUnit.Percent, 100 * profile.peak_memory / limit)
    # Each metric of each source costs $0.30 a month: those that tell something only of one source
    # are published for it, the others for its engine; the log line has them all.
    _publish({"engine": receipt.engine}, about={"source": name}, **values)
    _publish({"source": name}, Seconds=(MetricUnit.Seconds, seconds))
    _trace_stages(receipt)
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


def _trace_stages(receipt: Receipt) -> None:
    """Add a document for each stage of the unit to the trace: what it moved, and what it waited for."""
    if tracer.disabled:
        return
    tracer.put_annotation("source", receipt.source)
    tracer.put_annotation("bottleneck", receipt.profile.bottleneck)
    begin, end = receipt.started.timestamp(), receipt.ended.timestamp()
    recorder: Any = tracer.provider
    for name in ("read", "compress", "upload"):
        stage = getattr(receipt.profile, name)
        segment = recorder.begin_subsegment(name)
        segment.start_time = begin
        segment.put_metadata("stage", stage.model_dump(), "stepvault")
        recorder.end_subsegment(end_time=end)


def report_run(summary: Summary) -> None:
    """Publish metrics of a whole run: sealed and failed sources, sizes, and sizes out of line."""
    states: list[str] = [result.status for result in summary.sources]
    unusual = [result for result in summary.sources if result.unusual]
    _publish(
        {},
        SourcesSealed=(MetricUnit.Count, states.count("sealed")),
        SourcesFailed=(MetricUnit.Count, states.count("failed")),
        SizesUnusual=(MetricUnit.Count, len(unusual)),
    )
    for result in summary.sources:
        if result.status == "sealed":
            _publish({"source": result.source}, BackupBytes=(MetricUnit.Bytes, result.stored_bytes))
    for result in unusual:
        logger.warning(str(result.unusual), source=result.source)


def report_schedules(schedules: Sequence[Overdue]) -> dict[str, Any]:
    """Publish for every schedule whether it is overdue.

    Returns:
        The names of those that are.
    """
    for one in schedules:
        _publish({"schedule": one.schedule}, Overdue=(MetricUnit.Count, int(one.due is not None)))
        if one.due:
            logger.warning(
                f"Schedule {one.schedule} has sealed nothing since the run that was due at "
                f"{one.due:%Y-%m-%d %H:%M} UTC",
                schedule=one.schedule,
            )
    return {"overdue": [one.schedule for one in schedules if one.due]}


def _publish(
    dimensions: Mapping[str, str],
    about: Mapping[str, str] | None = None,
    **values: tuple[MetricUnit, float],
) -> None:
    """Write one EMF line; Powertools adds the service as a dimension.

    Args:
        dimensions: beside the service and the stack.
        values: metric to its unit and value.
        about: what the line says beside, at no cost: it is no dimension.
    """
    metrics = EphemeralMetrics()
    metrics.add_dimension("stack", stack_name())
    for dimension, of in dimensions.items():
        metrics.add_dimension(dimension, of)
    for key, value in (about or {}).items():
        metrics.add_metadata(key, value)
    for name, (unit, amount) in values.items():
        metrics.add_metric(name, unit, amount)
    metrics.flush_metrics()
