"""``stepvault prune``."""

from pathlib import Path

import click

from stepvault import config
from stepvault.prune import prune as prune_vault
from stepvault_cli import output
from stepvault_cli.common import Where, config_option, json_option, where


@click.command()
@click.option("--yes", is_flag=True, help="Remove them. Without it, nothing is touched.")
@config_option("Whose [retention] to apply.")
@json_option
@where
def prune(place: Where, yes: bool, config_file: Path, as_json: bool) -> None:
    """Show which backups retention no longer keeps, and with --yes remove them.

    Never a source's newest sealed backup, never objects that a later incremental backup
    refers to, never sources that the configuration does not name. The vault keeps removed versions
    for noncurrent_days, as a way back.

    \b
    Examples:
      stepvault prune                       what would go
      stepvault prune --yes                 remove it
    """
    rules = config.load(config_file)
    pruned = prune_vault(place.vault, rules, dry_run=not yes)
    if as_json:
        output.print_json(
            {"dry_run": not yes, "sources": [p.model_dump(mode="json") for p in pruned]}
        )
        return
    out = output.console()
    for p in pruned:
        for run in p.removed:
            out.print(f"{'removed' if yes else 'would remove'} {p.source}/{run}")
    rows = [
        (
            p.source,
            str(len(p.removed)),
            str(p.kept),
            str(p.objects),
            output.size(p.bytes),
            p.left_alone or "",
        )
        for p in pruned
    ]
    headings = ("source", ">removed" if yes else ">would go", ">kept", ">objects", ">bytes", "")
    out.print(output.table(headings, rows))
    if not yes and any(p.objects for p in pruned):
        output.echo("Nothing was touched. To remove them: stepvault prune --yes")
