"""``stepvault verify``: is the backup whole, and is the copy equal to it?"""

from pathlib import Path
from typing import Any

import click

from stepvault.config import load
from stepvault.records import RestoreOptions
from stepvault.restore import RestoreRequest, differences, find_manifest
from stepvault.verify import verify as verify_backup
from stepvault_cli import output
from stepvault_cli.common import REFUSED, Where, config_option, json_option, where
from stepvault_cli.restoring import Tally, where_to


@click.command()
@click.argument("source")
@click.option("--run", "run_id", default="latest", show_default=True, help="Which backup.")
@click.option(
    "--restored",
    metavar="TARGET|PATH|env:NAME",
    help="Compare what was restored there with the backup, by content.",
)
@click.option("--database", metavar="NAME", help="The database it was restored into.")
@config_option("Where TARGET is looked up.")
@json_option
@where
def verify(
    place: Where,
    source: str,
    run_id: str,
    restored: str | None,
    database: str | None,
    config_file: Path,
    as_json: bool,
) -> None:
    """Read a whole backup and compare every byte with its manifest.

    With --restored, compare a restored copy instead: counts and content hashes of tables, hashes
    and metadata of files, computed anew from what is there.

    \b
    Examples:
      stepvault verify shop
      stepvault verify uploads --run 20261122T030000Z-nightly
      COPY=postgresql://… stepvault verify shop --restored env:COPY
    """
    manifest = find_manifest(place.vault, source, run_id)
    not_compared: list[str] = []
    tally = Tally(manifest.raw_bytes, None if as_json or restored else output.console())
    if restored:
        target = where_to(restored, config_file)
        request = RestoreRequest(
            source=source,
            run_id=manifest.run_id,
            target=target,
            options=RestoreOptions(database=database),
        )
        config = load(config_file) if isinstance(target, str) else None
        wrong = differences(place.vault, request, config, not_compared.append)[1]
    else:
        with tally:
            wrong = verify_backup(place.vault, manifest, tally.add)
    if as_json:
        result: dict[str, Any] = {"source": source, "run_id": manifest.run_id, "differences": wrong}
        if restored:
            result["not_compared"] = list(dict.fromkeys(not_compared))
        output.print_json(result | {"status": "different" if wrong else "equal"})
    elif not wrong:
        what = f"{restored} equals the backup" if restored else "every object is whole"
        held = output.count(len(manifest.objects), "object")
        output.echo(
            f"{source}/{manifest.run_id}: {what} ({held}, {output.size(manifest.raw_bytes)})"
        )
    for what in [] if as_json else dict.fromkeys(not_compared):
        output.echo(f"not compared: {what}")
    for line in [] if as_json else wrong:
        output.echo(f"different: {line}", fg="red", err=True)
    if wrong:
        raise click.exceptions.Exit(REFUSED)
