"""What every command shares: where the vault is, and how errors become messages and exit codes."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stepvault import errors
from stepvault.catalog import Vault
from stepvault_cli import aws, output

OK, FAILED, USAGE, NOT_FOUND, REFUSED, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

EXIT_CODES = """\b
Exit codes:
  0    done
  1    the run or restore failed
  2    wrong usage or configuration
  3    not found: no such run, source, stack, bucket or target
  4    refused: no permission, target not empty or not able to, backup tampered with
  5    restored with --keep-going, but for what is listed
  130  interrupted; a run or restore that was started goes on"""

_CODES: dict[type[errors.StepvaultError], int] = {
    errors.ConfigInvalid: USAGE,
    errors.RunNotFound: NOT_FOUND,
    errors.VaultMissing: NOT_FOUND,
    errors.SourceMissing: NOT_FOUND,
    errors.TargetMissing: NOT_FOUND,
    errors.VaultDenied: REFUSED,
    errors.SourceDenied: REFUSED,
    errors.SourceUnsupported: REFUSED,
    errors.TargetNotEmpty: REFUSED,
    errors.TargetUnsupported: REFUSED,
    errors.BackupTampered: REFUSED,
    errors.RestoreIncomplete: INCOMPLETE,
}


def exit_code(kind: type) -> int:
    """Return the exit code for an error of that class."""
    return _CODES.get(kind, FAILED)


class Commands(click.Group):
    """A group whose commands may raise StepvaultError; a traceback is then always a bug."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except errors.StepvaultError as error:
            output.echo_error(str(error))
            raise click.exceptions.Exit(exit_code(type(error))) from error
        except KeyboardInterrupt:
            output.echo("interrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None


@dataclass(frozen=True)
class Where:
    """Where the vault and its state machines are, as the options say."""

    stack: str
    bucket: str | None

    @functools.cached_property
    def deployment(self) -> aws.Deployment:
        """What the stack says of itself; CloudFormation is asked once."""
        return aws.deployment(self.stack, self.bucket)

    @property
    def vault(self) -> Vault:
        """The vault; asks CloudFormation only if no bucket is named."""
        if self.bucket:
            aws.require_session()
            return Vault(self.bucket)
        return Vault(self.deployment.vault)


def where(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--stack`` and ``--vault``; it gets a ``Where`` as its first argument."""

    @click.option(
        "--stack",
        envvar="STEPVAULT_STACK",
        default="Stepvault",
        show_default=True,
        show_envvar=True,
        help="CloudFormation stack to ask for the vault and the state machines.",
    )
    @click.option(
        "--vault",
        envvar="STEPVAULT_VAULT",
        show_envvar=True,
        metavar="BUCKET",
        help="Vault bucket, instead of the stack's.",
    )
    @functools.wraps(command)
    def with_where(*args: Any, stack: str, vault: str | None, **options: Any) -> Any:
        return command(Where(stack, vault), *args, **options)

    return with_where


def config_option(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command ``--config``; it gets the path as ``config_file``."""
    return click.option(
        "--config",
        "config_file",
        envvar="STEPVAULT_CONFIG_FILE",
        type=click.Path(path_type=Path),
        default=Path("stepvault.toml"),
        show_default=True,
        help=help_text,
    )


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--json``; it gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)
