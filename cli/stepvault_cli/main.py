"""The ``stepvault`` command."""

import json
from pathlib import Path

import click

from stepvault import __version__, config
from stepvault_cli import output
from stepvault_cli.common import EXIT_CODES, Commands, json_option
from stepvault_cli.pruning import prune
from stepvault_cli.restoring import restore
from stepvault_cli.running import run, watch
from stepvault_cli.showing import runs, show
from stepvault_cli.verifying import verify


@click.group(
    cls=Commands,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="stepvault")
def cli() -> None:
    """Back up databases and files on AWS into your own S3 bucket, and get them back.

    The vault and the state machines come from the CloudFormation stack (--stack, or
    STEPVAULT_STACK); credentials, region and endpoint as for the AWS CLI (AWS_PROFILE,
    AWS_DEFAULT_REGION, AWS_ENDPOINT_URL).

    \b
    A first round:
      stepvault config check stepvault.toml   is the configuration right?
      stepvault run                           back up everything, watching
      stepvault show                          what the run did
      stepvault show shop                     what the newest backup of a source holds
      stepvault verify shop                   is every byte of it as it was stored?
      stepvault restore shop --to staging     put it back somewhere else
    """


@cli.group("config")
def config_group() -> None:
    """Check stepvault.toml, or print its JSON Schema."""


@config_group.command()
@click.argument("path", type=click.Path(path_type=Path), default="stepvault.toml")
@json_option
def check(path: Path, as_json: bool) -> None:
    """Say whether PATH is right and, if not, everything that is wrong with it.

    With --json, print it with every default written out.
    """
    loaded = config.load(path)
    if as_json:
        output.print_json(json.loads(config.to_json(loaded)))
        return
    for line in config.summary(loaded):
        output.echo(line)


@config_group.command()
def schema() -> None:
    """Print the JSON Schema of stepvault.toml, for editors that complete and check.

    A file whose first line is '#:schema ./stepvault.schema.json' uses it.
    """
    output.print_json(config.json_schema())


for command in (run, watch, runs, show, verify, restore, prune):
    cli.add_command(command)


def main() -> None:
    """Entry point of the script."""
    cli(prog_name="stepvault")


if __name__ == "__main__":
    main()
