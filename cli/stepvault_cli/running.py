"""``stepvault run`` and ``stepvault watch``."""

from collections.abc import Iterable, Mapping
from datetime import datetime

import click
from rich.console import Console

from stepvault import keys
from stepvault.catalog import Vault
from stepvault.errors import ConfigInvalid, RunNotFound, StepvaultError
from stepvault_cli import aws, output
from stepvault_cli.common import FAILED, INTERRUPTED, Where, json_option, where
from stepvault_cli.follow import RunFollower, follow_run
from stepvault_cli.progress import Progress

_GOES_ON = "The run goes on. Follow it again: stepvault watch {}"


@click.command()
@click.option("--sources", metavar="A,B", help="Only these sources; all when left out.")
@click.option("--run-id", metavar="RUN", help="Finish that run: only what is missing runs again.")
@click.option("--detach", is_flag=True, help="Start it and return at once.")
@json_option
@where
def run(place: Where, sources: str | None, run_id: str | None, detach: bool, as_json: bool) -> None:
    """Start a backup run and follow it.

    Ctrl-C stops following; the run goes on, and 'stepvault watch' follows it again.

    \b
    Examples:
      stepvault run                         everything in the deployed configuration
      stepvault run --sources shop,uploads  two sources
      stepvault run --detach --json         for a script: prints the run id
      stepvault run --run-id 20261122T030000Z-nightly
                                            do again what failed in that run
    """
    if run_id and not keys.is_run_id(run_id):
        raise ConfigInvalid(f"{run_id!r} is not a run id", "Take one from 'stepvault runs'")
    names = [name.strip() for name in (sources or "").split(",") if name.strip()]
    deployed = place.deployment
    machine = deployed.machine("Backup")
    if run_id and (busy := aws.at_work(machine, run_id)):
        raise ConfigInvalid(
            f"The execution {busy.name} is at work on run {run_id}",
            f"Follow it with 'stepvault watch {run_id}'; if it fails, give this command again",
        )
    given = {"sources": names} | ({"run_id": run_id} if run_id else {})
    execution = aws.start(machine, given)
    started = run_id or keys.run_id(execution.started, execution.name)
    if detach:
        if as_json:
            output.print_json({"run_id": started, "execution_arn": execution.arn})
        else:
            output.echo(f"run {started} started; follow it: stepvault watch {started}")
        return
    _follow(Vault(deployed.vault), started, execution, as_json)


@click.command()
@click.argument("run_id", metavar="[RUN]", default="latest")
@json_option
@where
def watch(place: Where, run_id: str, as_json: bool) -> None:
    """Follow a run that is under way, or show how it ended.

    RUN is a run id from 'stepvault runs'; the newest when left out.
    """
    deployed = place.deployment
    vault = Vault(deployed.vault)
    machine = deployed.machines.get("Backup")
    run = newest_run(vault, machine) if run_id == "latest" else run_id
    if not keys.is_run_id(run):
        raise ConfigInvalid(f"{run!r} is not a run id", "Take one from 'stepvault runs'")
    execution = aws.find(machine, run) if machine else None
    if execution is None and vault.units(run) is None:
        raise RunNotFound(f"There is no run {run!r} in this vault", "See 'stepvault runs'")
    if machine and execution is None and vault.summary(run) is None:
        raise RunNotFound(
            f"Nothing is at work on run {run}, and it is not sealed",
            f"Finish it with 'stepvault run --run-id {run}'",
        )
    _follow(vault, run, execution, as_json)


def newest_run(vault: Vault, machine: str | None) -> str:
    """Return the newest run, planned or just started."""
    executions = aws.executions(machine, 20) if machine else {}
    known = by_age({*vault.runs()[-20:], *executions}, executions)
    if not known:
        raise RunNotFound("There are no runs yet", "Start one with 'stepvault run'")
    newest = known[-1]
    return (aws.taken_up(executions[newest]) if newest in executions else None) or newest


def by_age(runs: Iterable[str], executions: Mapping[str, aws.Execution]) -> list[str]:
    """Run ids, the oldest first; ids tell seconds, executions also their fractions."""

    def age(run: str) -> tuple[datetime, str]:
        execution = executions.get(run)
        return (execution.started if execution else keys.run_started(run)), run

    return sorted(runs, key=age)


def _follow(vault: Vault, run: str, execution: aws.Execution | None, as_json: bool) -> None:
    out = None if as_json else output.console()
    try:
        progress = follow_run(RunFollower(vault, run, execution), out)
    except KeyboardInterrupt:
        output.echo(_GOES_ON.format(run), err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except StepvaultError:
        output.echo(_GOES_ON.format(run), err=True)
        raise
    summary = vault.summary(run) if progress.sources else None
    if as_json:
        output.print_json(
            {
                "run_id": run,
                "status": progress.state,
                "execution_arn": execution.arn if execution else None,
                "error": progress.error or None,
                "summary": summary.model_dump(mode="json") if summary else None,
            }
        )
    else:
        _tell_end(progress, output.console(stderr=True), pictured=bool(out and out.is_terminal))
    if progress.state != "succeeded":
        raise click.exceptions.Exit(FAILED)


def _tell_end(progress: Progress, err: Console, *, pictured: bool) -> None:
    """Print what came of it and what to do next; a live picture, if there was one, stays above."""
    by_state: dict[str, list[str]] = {}
    for source in progress.sources:
        by_state.setdefault(source.state, []).append(source.name)
    states = "; ".join(f"{', '.join(names)} {state}" for state, names in by_state.items())
    if progress.state == "succeeded":
        output.echo(
            f"{states or 'nothing to do'}. {output.size(progress.stored)} stored in "
            f"{output.duration(progress.elapsed)}. Look closer: stepvault show {progress.run}"
        )
        return

    def say(line: str) -> None:
        for part in line.split("\n"):
            err.print(part)

    failed = [source for source in progress.sources if source.message]
    if not pictured:
        err.print(f"run {progress.state}", style="bold red", end="")
        say(f": {states}" if states else "")
        for source in failed:
            say(f"  {source.name}: {source.message}")
    if not failed and progress.error:
        say(f"  {progress.error}")
    if progress.sources:
        say(f"Correct the cause, then: stepvault run --run-id {progress.run}")
