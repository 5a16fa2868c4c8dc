"""``make demo``: the whole of Stepvault on this machine, in about a minute.

Real PostgreSQL and SQLite, a folder of files, the real stack deployed by the CDK into an
emulated AWS, a backup taken while the databases are written to, everything restored
elsewhere and compared. Nothing stays behind, unless KEEP=1 asks to look around first.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
from rich.console import Console

from devtools import comparison, emulator, lifelike
from devtools.servers.postgres import PostgresServer
from devtools.timer import Timer

out = Console(highlight=False)
CONFIG = """\
[[sources]]
name = "shop"
engine = "postgres"
connection = {{ secret = "demo/shop" }}

[[sources]]
name = "tickets"
engine = "sqlite"
path = "{place}/sources/tickets.sqlite"

[[sources]]
name = "uploads"
engine = "files"
path = "{place}/sources/uploads"

[[targets]]
name = "shop-restored"
connection = {{ secret = "demo/shop", database = "shop_restored" }}

[[targets]]
name = "restored"
path = "{place}/restored"

[[schedules]]
name = "nightly"
when = "cron(0 3 * * ? *)"
timezone = "Europe/Berlin"

[retention]
keep_last = 7
"""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what happens now, and how long it took."""
    with Timer() as timer, out.status(what):
        yield
    out.print(f"[green]✓[/] {what} [dim]{timer.seconds:.1f} s[/]")


def stepvault(*arguments: str) -> None:
    """Run the command a person would run, and show it."""
    out.print(f"\n[bold]$ stepvault {' '.join(arguments)}[/]")
    command = Path(sys.executable).with_name("stepvault")
    done = subprocess.run([command, *arguments], check=False)
    if done.returncode:
        sys.exit(f"stepvault {arguments[0]} ended with exit code {done.returncode}")


def main() -> None:
    """Run the whole demo."""
    # However it is told to stop, it cleans up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    timer = Timer()
    with ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="stepvault-demo-"))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        shop = prepare(stack, place)
        back_up(shop, place)
        bring_back(place)
        check(shop, place)
        out.print(f"\n[bold green]All of it, in {timer.seconds:.0f} seconds.[/]")
        look_around(shop)


def prepare(stack: ExitStack, place: Path) -> str:
    """Make servers, sources and the deployed stack side by side; return the URL of the shop."""
    config = place / "stepvault.toml"
    config.write_text(CONFIG.format(place=place))
    with step("PostgreSQL, an emulated AWS, and lifelike sources"), ThreadPoolExecutor(8) as pool:
        synthesized = pool.submit(emulator.synthesize, config, place / "cdk.out")
        aws = pool.submit(stack.enter_context, emulator.running(log=place / "aws.log"))
        server = stack.enter_context(PostgresServer())
        server.psql("CREATE DATABASE shop")
        url = server.url("shop")
        sources = [
            pool.submit(lifelike.make_shop, url),
            pool.submit(lifelike.make_tickets, place / "sources/tickets.sqlite"),
            pool.submit(lifelike.make_files, place / "sources/uploads"),
        ]
        os.environ.update(emulator.environment(aws.result()))
        keep_secret(server)
        synthesized.result()
        emulator.deploy(os.environ["AWS_ENDPOINT_URL"], config, assembly=place / "cdk.out")
        for source in sources:
            source.result()
    return url


def keep_secret(server: PostgresServer) -> None:
    """Put the database's address and password where a person would have put them."""
    boto3.client("secretsmanager").create_secret(
        Name="demo/shop", SecretString=json.dumps(server.secret("shop"))
    )


def back_up(url: str, place: Path) -> None:
    """Back up all sources while both databases are written to, and show the run."""
    with lifelike.Traffic(url, place / "sources/tickets.sqlite") as traffic:
        stepvault("run")
    out.print(f"[dim]{traffic.commits:,} transactions were committed meanwhile[/]")
    stepvault("show")
    stepvault("show", "shop", "--objects")


def bring_back(place: Path) -> None:
    """Restore all sources elsewhere."""
    config = str(place / "stepvault.toml")
    (place / "restored").mkdir()
    stepvault("restore", "shop", "--to", "shop-restored", "--config", config)
    stepvault("restore", "tickets", "--to", str(place / "restored/tickets.sqlite"))
    stepvault("restore", "uploads", "--to", str(place / "restored/uploads"))


def check(url: str, place: Path) -> None:
    """Compare what came back with what is there."""
    out.print()
    with step("Compared the databases: rows, content, and the sum that no transaction changes"):
        copy = url.replace("/shop", "/shop_restored")
        told = comparison.postgres(url, copy, moving=("sales.account", "sales.wallet"))
        told += comparison.sqlite(
            place / "sources/tickets.sqlite",
            place / "restored/tickets.sqlite",
            ("account", "wallet"),
        )
    with step("Compared the files: names, bytes, modes, times, links"):
        told.append(comparison.files(place / "sources/uploads", place / "restored/uploads"))
    for line in told:
        out.print(f"  {line}")


def look_around(url: str) -> None:
    """Say what to look at next; with KEEP=1 wait for Ctrl-C."""
    keep = os.environ.get("KEEP") == "1"
    out.print(
        "\nWhat to look at next: [bold]make demo KEEP=1[/] leaves it running for a while; "
        "[bold]examples/stepvault.toml[/] shows every setting; "
        "[bold]docs/restore.md[/] is for the night it matters."
        if not keep
        else "\nIt goes on running. In another terminal:\n"
    )
    if keep:
        for name, value in emulator.environment(os.environ["AWS_ENDPOINT_URL"]).items():
            out.print(f"  export {name}={value}", soft_wrap=True)
        out.print(f"  psql '{url}'", soft_wrap=True)
        out.print("  .venv/bin/stepvault runs\n\nCtrl-C ends it.")
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        out.print("\nStopped; everything is cleaned up.")
    except (comparison.DifferentError, emulator.EmulatorError) as error:
        sys.exit(f"\n{error}")
