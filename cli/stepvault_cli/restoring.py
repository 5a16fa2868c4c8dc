"""``stepvault restore``: by the deployed state machine, or right here."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich import progress as bars
from rich.console import Console

from stepvault import errors
from stepvault.catalog import Vault
from stepvault.config import load
from stepvault.errors import ConfigInvalid
from stepvault.records import Manifest, RestoreOptions, Unrestored
from stepvault.restore import (
    RestoreRequest,
    complain,
    differences,
    each_once,
    find_manifest,
    restore_here,
)
from stepvault.settings import ConnectionSettings, TargetSettings, engine_models
from stepvault_cli import aws, output
from stepvault_cli.common import (
    FAILED,
    INTERRUPTED,
    Where,
    config_option,
    exit_code,
    json_option,
    where,
)
from stepvault_cli.follow import follow_restore


@click.command()
@click.argument("source")
@click.option("--run", "run_id", default="latest", show_default=True, help="Which backup.")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="TARGET|PATH|s3://BUCKET/PREFIX|env:NAME",
    help="A [[targets]] name of the configuration, a folder or file, a place in a bucket for what "
    "came from one, or the environment variable that holds a database URL.",
)
@click.option(
    "--only", multiple=True, metavar="GLOB", help="Only these tables or paths; may be repeated."
)
@click.option("--overwrite", is_flag=True, help="Write over what is already there.")
@click.option("--database", metavar="NAME", help="Restore into a database of this name.")
@click.option(
    "--owner",
    default="keep",
    show_default=True,
    metavar="keep|none|ROLE",
    help="Who owns what is restored: as backed up, the connecting user, or that role.",
)
@click.option(
    "--keep-going",
    is_flag=True,
    help="Restore all that can be, then list the rest, each with its reason; exit code 5.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="KIND",
    help="Leave out things of this kind, such as tablespaces or extension:NAME; may be repeated. "
    "What a target cannot take is listed with its KIND before anything is written.",
)
@click.option("--compare", is_flag=True, help="Afterwards compare all content with the backup.")
@config_option("Checked for TARGET if it is there; the deployed configuration decides.")
@json_option
@where
def restore(
    place: Where,
    source: str,
    run_id: str,
    target: str,
    only: tuple[str, ...],
    overwrite: bool,
    database: str | None,
    owner: str,
    keep_going: bool,
    without: tuple[str, ...],
    compare: bool,
    config_file: Path,
    as_json: bool,
) -> None:
    """Restore a backup, verifying every byte on the way.

    To a TARGET of the configuration, Step Functions does it in parallel, next to the database.
    To a PATH or env:NAME, this process does it, over your own connection and without the
    functions' time limit. A target that holds data is refused unless you say --overwrite.

    \b
    Examples:
      stepvault restore shop --to staging --database shop_monday
      SHOP=postgresql://… \\
        stepvault restore shop --to env:SHOP --only public.orders
      stepvault restore uploads --to ./uploads --only 'invoices/2026/**'
      stepvault restore shop --to rds --owner none --keep-going
      stepvault restore tickets --run 20261122T030000Z-nightly --to ./tickets.sqlite
    """
    place_to = where_to(target, config_file)
    manifest = find_manifest(place.vault, source, run_id)
    _check_kind(manifest, place_to)
    options = RestoreOptions(
        only=list(only),
        overwrite=overwrite,
        database=database,
        owner=owner,
        keep_going=keep_going,
        without=list(without),
    )
    request = RestoreRequest(
        source=source, run_id=manifest.run_id, target=place_to, options=options
    )
    out = None if as_json else output.console()
    if out:
        out.print(
            f"{source} ({manifest.engine}) of {output.moment(manifest.sealed)}, run "
            f"{manifest.run_id}, {output.size(manifest.raw_bytes)} → {target}",
        )
    if isinstance(place_to, str):
        if compare:
            raise ConfigInvalid(
                "--compare works for restores done here",
                "Use --to env:NAME or a path, or leave --compare out",
            )
        _by_machine(place, request, out)
        return
    _here(place.vault, request, manifest, out, compare)


def where_to(target: str, config_file: Path) -> str | TargetSettings:
    """Return what ``--to`` means: the name of a target, or a place of one's own.

    Raises:
        ConfigInvalid: a URL with its password on the command line, or an unknown target.
    """
    if target.startswith("env:"):
        if not (variable := target.removeprefix("env:")):
            raise ConfigInvalid("env: names no environment variable", "Write --to env:NAME")
        return TargetSettings(name="here", connection=ConnectionSettings(url_env=variable))
    if target.startswith("s3://"):
        return TargetSettings(name="here", path=target)
    if "://" in target:
        raise ConfigInvalid(
            "--to takes no URL, because others can read a command line (value not shown)",
            "Put the URL into an environment variable and write --to env:NAME",
        )
    if "/" in target or target.startswith("."):
        return TargetSettings(name="here", path=str(Path(target).expanduser().absolute()))
    if config_file.exists():
        names = [t.name for t in load(config_file).targets]
        if target not in names:
            raise ConfigInvalid(
                f"No restore target named {target!r} in {config_file}",
                f"Known are: {', '.join(names) or 'none'}; for a folder or file write ./{target}",
            )
    return target


def _check_kind(manifest: Manifest, place: str | TargetSettings) -> None:
    """Refuse a server's backup for a path, and others for a server; the machine checks its targets."""
    if isinstance(place, str):
        return
    model = engine_models().get(manifest.engine)
    if model is None:
        return  # a newer tool's engine: the restore itself refuses it, and names the version
    what = f"{manifest.source!r} is a {manifest.engine} backup"
    if place.path and model.is_server:
        raise ConfigInvalid(
            f"{what}, which goes into a database server, not to a path",
            "Put the server's URL into an environment variable and write --to env:NAME",
        )
    if place.connection and not model.is_server:
        raise ConfigInvalid(f"{what}, which goes to a path", "Write --to ./folder-or-file")


def _by_machine(place: Where, request: RestoreRequest, out: Console | None) -> None:
    deployed = place.deployment
    vault = Vault(deployed.vault)
    execution = aws.start(deployed.machine("Restore"), request.model_dump(mode="json"))
    try:
        progress = follow_restore(vault, execution, out)
    except KeyboardInterrupt:
        output.echo(f"The restore goes on as execution {execution.name}: {execution.arn}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    report = vault.restore_report(progress.restore)
    left = report.unrestored if report else each_once(vault.unrestored(progress.restore))
    ok = progress.state == "succeeded"
    if out is None:
        output.print_json(
            {
                "restore_id": progress.restore,
                "status": progress.state,
                "source": request.source,
                "run_id": request.run_id,
                "execution_arn": execution.arn,
                "unrestored": [what.model_dump() for what in left],
                "error": progress.error or None,
            }
        )
    elif ok:
        output.echo(f"restored in {output.duration(progress.elapsed)}")
    else:
        output.echo_error(f"restore {progress.state}: {progress.error}")
    if out:
        _list_unrestored(left)
    if not ok:
        if report is None and progress.tasks:  # the target was checked, and written to
            output.echo(UNFINISHED, err=True)
        kind = getattr(errors, progress.error.partition(":")[0], None)
        raise click.exceptions.Exit(exit_code(kind) if isinstance(kind, type) else FAILED)


def _here(
    vault: Vault,
    request: RestoreRequest,
    manifest: Manifest,
    out: Console | None,
    compare: bool,
) -> None:
    tally, reported = Tally(manifest.raw_bytes, out), list[Unrestored]()
    begun = threading.Event()
    try:
        with tally:
            restore_here(
                vault,
                request,
                progress=tally.add,
                unrestored=reported.append,
                begin=begun.set,
            )
    except BaseException:
        if begun.is_set():
            output.echo(UNFINISHED, err=True)
        raise
    left, not_compared = each_once(reported), list[str]()
    wrong = differences(vault, request, None, not_compared.append)[1] if compare else []
    if out is None:
        result: dict[str, Any] = {
            "status": "different" if wrong else "succeeded",
            "source": request.source,
            "run_id": request.run_id,
            "raw_bytes": tally.done,
            "unrestored": [what.model_dump() for what in left],
        }
        compared = {"differences": wrong, "not_compared": list(dict.fromkeys(not_compared))}
        output.print_json(result | (compared if compare else {}))
    else:
        output.echo(f"restored {output.size(tally.done)} in {output.duration(tally.seconds)}")
        _list_unrestored(left)
        if compare:
            output.print_comparison(wrong, not_compared)
    complain(request.source, left)
    if wrong:
        raise click.exceptions.Exit(FAILED)


#: For whoever sees a restore end half-way.
UNFINISHED = (
    "The target is incomplete and must not be used. The same command, run again, goes on with this "
    "restore where the target allows it; with --overwrite it begins anew"
)


def _list_unrestored(left: Sequence[Unrestored]) -> None:
    """Print a line for each thing that is not there, those that were asked for last."""
    for what in left:
        start, colour = ("left out: ", None) if what.asked else ("not restored: ", "red")
        output.echo(f"{what.kind} {what.name}: {what.reason}", err=True, fg=colour, start=start)
        if what.statement and not what.asked:
            output.echo(f"  {what.statement}", err=True)


class Tally:
    """Counts restored bytes from several threads and shows them on a terminal."""

    def __init__(self, expected: int, out: Console | None) -> None:
        self.done = 0
        self._lock = threading.Lock()
        self._bar = bars.Progress(
            bars.BarColumn(),
            bars.DownloadColumn(),
            bars.TransferSpeedColumn(),
            bars.TimeRemainingColumn(),
            console=out,
            disable=out is None or not out.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("restore", total=expected)

    def __enter__(self) -> "Tally":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._bar.tasks[self._task].elapsed or 0.0
        self._bar.stop()

    def add(self, _: str, count: int) -> None:
        """Count more restored bytes."""
        with self._lock:
            self.done += count
        self._bar.advance(self._task, count)
