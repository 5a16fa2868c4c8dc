"""``stepvault runs`` and ``stepvault show``."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from stepvault import keys
from stepvault.catalog import Vault
from stepvault.errors import BackupTampered, RunNotFound, StepvaultError
from stepvault.records import Manifest, StoredObject, Summary
from stepvault.restore import find_manifest
from stepvault_cli import aws, output
from stepvault_cli.common import Where, json_option, where
from stepvault_cli.follow import RunFollower
from stepvault_cli.running import by_age, newest_run

_UNSEALED = {
    "RUNNING": "running",
    "FAILED": "failed",
    "TIMED_OUT": "timed out",
    "ABORTED": "aborted",
}


@click.command()
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="The newest so many."
)
@json_option
@where
def runs(place: Where, limit: int, as_json: bool) -> None:
    """List runs, the newest last.

    \b
    Status:
      succeeded  every source is sealed (or skipped, being optional and absent)
      partly     some sources are sealed, at least one failed
      failed     no source is sealed
      running    not sealed yet
      not sealed no summary and no execution at work: it was stopped
      unreadable its summary is damaged; 'stepvault show RUN' says how
    """
    vault = place.vault
    executions = _executions(place)
    planned = set(vault.runs())
    newest = [
        run
        for run in by_age({*planned, *executions}, executions)[-limit:]
        if run in planned or not aws.taken_up(executions[run])
    ]
    with ThreadPoolExecutor(8) as pool:
        lines = [*pool.map(lambda run: _read_line(vault, run, executions.get(run)), newest)]
    if as_json:
        output.print_json(lines)
        return
    if not lines:
        output.echo("No runs yet; start one with: stepvault run")
        return
    rows = [
        (
            line["run_id"],
            output.status(line["status"]),
            output.moment(keys.run_started(line["run_id"])),
            output.duration(line["seconds"]) if line["seconds"] is not None else "",
            f"{line['sealed']}/{line['sources']}" if line["sources"] is not None else "",
            output.size(line["stored_bytes"]) if line["stored_bytes"] is not None else "",
            line["schedule"] or "",
        )
        for line in lines
    ]
    headings = ("run", "status", "started", ">took", ">sealed", ">stored", "schedule")
    output.console().print(output.table(headings, rows))


def _executions(place: Where) -> dict[str, aws.Execution]:
    """Return the executions, which tell what unsealed runs are at work; none without a stack."""
    try:
        return aws.executions(place.deployment.machine("Backup"))
    except StepvaultError:
        if place.bucket is None:
            raise
        return {}


def _read_line(vault: Vault, run: str, execution: aws.Execution | None) -> dict[str, Any]:
    """Return the run's line; a summary that cannot be read spoils no other line."""
    try:
        return _run_line(run, vault.summary(run), execution)
    except BackupTampered:
        return _run_line(run, None, None) | {"status": "unreadable"}


def _run_line(run: str, summary: Summary | None, execution: aws.Execution | None) -> dict[str, Any]:
    if summary is None:
        status = _UNSEALED.get(execution.status, "not sealed") if execution else "not sealed"
        return {"run_id": run, "status": status} | dict.fromkeys(
            ("seconds", "sources", "sealed", "failed", "raw_bytes", "stored_bytes", "schedule")
        )
    return {
        "run_id": run,
        "status": _outcome(summary),
        "seconds": (summary.ended - summary.started).total_seconds(),
        "sources": len(summary.sources),
        "sealed": sum(s.status == "sealed" for s in summary.sources),
        "failed": sum(s.status == "failed" for s in summary.sources),
        "raw_bytes": sum(s.raw_bytes for s in summary.sources),
        "stored_bytes": sum(s.stored_bytes for s in summary.sources),
        "schedule": summary.schedule,
    }


def _outcome(summary: Summary) -> str:
    if all(s.status != "failed" for s in summary.sources):
        return "succeeded"
    return "partly" if any(s.status == "sealed" for s in summary.sources) else "failed"


@click.command()
@click.argument("what", metavar="RUN|SOURCE[/RUN]", default="latest")
@click.option("--objects", "all_objects", is_flag=True, help="List every object of a backup.")
@json_option
@where
def show(place: Where, what: str, all_objects: bool, as_json: bool) -> None:
    """Show what a run did, or what a backup holds.

    \b
    Examples:
      stepvault show                        the newest run
      stepvault show 20261122T030000Z-nightly
                                            a run: its sources, sizes, failures
      stepvault show shop                   the newest backup of a source
      stepvault show shop/20261122T030000Z-nightly --objects
                                            that backup, object by object
    """
    vault = place.vault
    if what == "latest":
        what = newest_run(vault, None)
    if keys.is_run_id(what):
        _show_run(place, vault, what, as_json)
        return
    source, _, run = what.partition("/")
    manifest = find_manifest(vault, source, run or "latest")
    if as_json:
        output.print_json(manifest.model_dump(mode="json"))
    else:
        _show_backup(vault, manifest, all_objects)


def _show_run(place: Where, vault: Vault, run: str, as_json: bool) -> None:
    summary = vault.summary(run)
    if summary is None:
        _show_unsealed(place, vault, run, as_json)
        return
    if as_json:
        output.print_json(summary.model_dump(mode="json"))
        return
    out = output.console()
    took = output.duration((summary.ended - summary.started).total_seconds())
    by = f", schedule {summary.schedule}" if summary.schedule else ""
    out.print(f"run {run} ", output.status(_outcome(summary)), f", {took}{by}", sep="")
    rows = [
        (
            s.source,
            s.engine,
            output.status(s.status),
            f"{s.units_done}/{s.units}",
            _contents(s.rows, s.files) if s.status == "sealed" else "",
            output.size(s.raw_bytes),
            output.size(s.stored_bytes),
            s.bottleneck or "",
        )
        for s in summary.sources
    ]
    headings = ("source", "engine", "status", ">units", ">holds", ">raw", ">stored", "bottleneck")
    out.print(output.table(headings, rows))
    for result in summary.sources:
        for failure in result.failures:
            out.print(
                f"{result.source}/{failure.unit} failed: {failure.error}: {failure.message}",
                style="red",
            )
        for warning in result.warnings:
            out.print(f"{result.source}: {warning}", style="yellow")
    if any(s.status == "failed" for s in summary.sources):
        output.echo(f"Correct the cause, then: stepvault run --run-id {run}")


def _show_unsealed(place: Where, vault: Vault, run: str, as_json: bool) -> None:
    """Show how far a run without a summary is."""
    execution = _executions(place).get(run)
    progress = RunFollower(vault, run, execution).look()
    if not progress.sources and execution is None:
        newest = ", ".join(vault.runs()[-3:]) or "none yet"
        raise RunNotFound(f"There is no run {run!r} in this vault", f"The newest are: {newest}")
    status = progress.state if execution else "not sealed"
    if as_json:
        output.print_json(
            {
                "run_id": run,
                "status": status,
                "error": progress.error or None,
                "sources": [
                    {"source": s.name, "status": s.state, "units": s.units, "units_done": s.done}
                    for s in progress.sources
                ],
            }
        )
        return
    out = output.console()
    out.print(f"run {run} ", output.status(status), sep="")
    rows = [
        (s.name, s.engine, output.status(s.state), f"{s.done}/{s.units}", output.size(s.stored))
        for s in progress.sources
    ]
    if rows:
        out.print(output.table(("source", "engine", "state", ">units", ">stored"), rows))
    for message in [progress.error, *(s.message for s in progress.sources)]:
        if message:
            out.print(message, style="red")
    if not progress.ended:
        output.echo(f"Follow it: stepvault watch {run}")


def _show_backup(vault: Vault, manifest: Manifest, all_objects: bool) -> None:
    out = output.console()
    source, run = manifest.source, manifest.run_id
    took = output.duration((manifest.sealed - manifest.started).total_seconds())
    ratio = (
        f", {manifest.raw_bytes / manifest.stored_bytes:.1f} : 1" if manifest.stored_bytes else ""
    )
    facts = manifest.units[0].facts if manifest.units else {}
    lines = [
        ("source", f"{source} ({manifest.engine})"),
        ("run", run),
        ("sealed", f"{output.moment(manifest.sealed)}, after {took}"),
        ("holds", f"{_contents(manifest.rows, manifest.files)}, {output.size(manifest.raw_bytes)}"),
        ("stored", output.size(manifest.stored_bytes) + ratio),
        ("bottleneck", ", ".join(sorted({unit.bottleneck for unit in manifest.units}))),
        *(
            (k.replace("_", " "), str(v))
            for k, v in facts.items()
            if isinstance(v, str | int | float)
        ),
        ("data", f"s3://{vault.bucket}/{keys.data_prefix(source, run)}"),
    ]
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        out.print(f"{name:<{width}}{value}")
    shown = manifest.objects if all_objects else _largest(manifest.objects)
    rows = [
        (
            o.name,
            _contents(o.rows or 0, o.files or 0) if o.rows is not None or o.files else "",
            output.size(o.raw_bytes),
            output.size(o.stored_bytes),
            f"in run {o.run_id}" if o.run_id else "",
        )
        for o in shown
    ]
    out.print()
    out.print(output.table(("object", ">holds", ">raw", ">stored", ""), rows))
    if len(shown) < len(manifest.objects):
        rest = len(manifest.objects) - len(shown)
        output.echo(f"and {output.count(rest, 'smaller object')}; --objects lists all")
    for warning in manifest.warnings:
        out.print(f"warning: {warning}", style="yellow")
    output.echo()
    output.echo(f"Restore it: stepvault restore {source} --run {run} --to …")


def _largest(objects: Sequence[StoredObject], most: int = 15) -> list[StoredObject]:
    return sorted(objects, key=lambda o: o.raw_bytes, reverse=True)[:most]


def _contents(rows: int, files: int) -> str:
    parts = [output.count(rows, "row")] if rows or not files else []
    return ", ".join(parts + ([output.count(files, "file")] if files else []))
