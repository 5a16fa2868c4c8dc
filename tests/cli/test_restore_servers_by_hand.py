"""docs/restore.md for PostgreSQL, MySQL and MariaDB: its own commands, from a real vault to a real server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from devtools.servers.mariadb import MariaDb
from devtools.servers.mysql import MySql
from devtools.servers.postgres import PostgresServer
from stepvault import storage
from stepvault.catalog import Vault
from stepvault.settings import Config
from tests.cli.test_restore_by_hand import commands, run
from tests.engines.mysql import data
from tests.engines.postgres.rig import holds, make_odd

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@dataclass
class Terminal:
    """A shell of someone who has the documents, the credentials and a server's own programs."""

    home: Path
    vault: Vault
    path: list[Path] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tools = self.home / "tools"
        tools.mkdir()
        for name, module in {
            "aws": "tests.cli.aws_commands",
            "stepvault": "stepvault_cli.main",
        }.items():
            program = tools / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            program.chmod(0o755)
        self.path.insert(0, tools)

    def type(self, block: str, **replaced: str) -> str:
        """Run a block of a document as it stands, but for the placeholders that a reader fills in.

        Args:
            block: the commands.
            replaced: assignments of shell variables that get another value.
        """
        environment = os.environ | self.variables | {"HOME": str(self.home)}
        environment["STEPVAULT_VAULT"] = self.vault.bucket
        environment["PATH"] = ":".join([*map(str, self.path), os.environ["PATH"]])
        environment["PYTHONPATH"] = ":".join(
            map(str, [ROOT, *(ROOT / p for p in ("layers/core/python", "cli"))])
        )
        lines = [
            line
            for line in block.splitlines()
            if not line.removeprefix("export ").startswith(tuple(f"{name}=" for name in replaced))
        ]
        settings = [f"export {name}='{value}'" for name, value in replaced.items()]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join([*settings, *lines])],
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def download(self, source: str) -> None:
        """Find the backup, download it and check it, as the page says."""
        where = {"VAULT": self.vault.bucket, "SOURCE": source}
        found = self.type(commands("aws s3api list-objects-v2"), **where).split()
        run_id = found[-1].split("/")[2]
        assert found == [f"backups/{source}/{run_id}/manifest.json"]
        self.type(commands("aws s3 sync"), RUN=run_id, **where)
        assert self.type(commands("damaged:")) == ""


@pytest.fixture
def terminal(tmp_path: Path, vault: Vault) -> Terminal:
    home = tmp_path / "home"
    home.mkdir()
    return Terminal(home, vault)


# --- PostgreSQL ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop() -> Iterator[PostgresServer]:
    """A server with a database ``shop`` of odd things."""
    with PostgresServer("18") as server:
        make_odd(server, "shop")
        yield server


@pytest.fixture
def empty(
    shop: PostgresServer, vault: Vault, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresServer]:
    """A server with nothing, which the terminal's programs reach; ``shop`` is in the vault."""
    with PostgresServer("18") as server:
        monkeypatch.setenv("PATH", f"{shop.home}/bin:{os.environ['PATH']}")
        monkeypatch.setenv("SHOP_SOURCE", shop.url("shop"))
        source = {"name": "shop", "engine": "postgres", "connection": {"url_env": "SHOP_SOURCE"}}
        run(vault, Config.model_validate({"sources": [source]}), "nightly", 3)
        terminal.path.append(server.home / "bin")
        terminal.variables |= server.environment()
        terminal.download("shop")
        yield server


def test_psql_and_pg_restore_bring_a_postgresql_database_back(
    empty: PostgresServer, shop: PostgresServer, terminal: Terminal
) -> None:
    terminal.type(commands("globals.sql"))
    assert holds(empty, "shop_copy") == holds(shop, "shop")


def test_the_readme_brings_a_postgresql_database_back(
    empty: PostgresServer, shop: PostgresServer, terminal: Terminal
) -> None:
    terminal.type(commands("globals.sql").splitlines()[0])
    (block,) = [b for b in README.split("```") if "pg_restore -j4" in b]
    backup = terminal.vault.latest("shop")
    assert backup
    block = block.replace("s3://VAULT", f"s3://{terminal.vault.bucket}")
    terminal.type(block.replace("/RUN/", f"/{backup.run_id}/"))
    assert holds(empty, "shop") == holds(shop, "shop")


def test_stepvault_restores_a_postgresql_database_from_a_terminal_and_compares(
    empty: PostgresServer, shop: PostgresServer, terminal: Terminal
) -> None:
    terminal.type(commands("globals.sql").splitlines()[0])
    block = commands("createdb -h localhost").replace("-h localhost ", "")
    told = terminal.type(block, SHOP=empty.url("shop_copy"))
    assert "equal" in told
    assert holds(empty, "shop_copy") == holds(shop, "shop")


# --- MySQL and MariaDB --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[MariaDb, MySql], ids=["mariadb", "mysql"])
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[MariaDb, MariaDb]]:
    """A server with a database of odd things, and one with nothing."""
    with ExitStack() as stack:
        source, target = (
            stack.enter_context(request.param([request.param.no_binary_log])) for _ in range(2)
        )
        for server in (source, target):
            server.sql(
                "SET GLOBAL log_bin_trust_function_creators=1",
                "SET GLOBAL group_concat_max_len=1000000",
            )
        tables = data.SHOP + data.WIDE
        data.make(source, "shop", data.for_mysql(tables) if request.param is MySql else tables)
        yield source, target


@pytest.fixture
def mysql(
    servers: tuple[MariaDb, MariaDb],
    vault: Vault,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[MariaDb]:
    """The empty server, as target.cnf names it; the other's database is in the vault."""
    source, target = servers
    monkeypatch.setenv("WP_SOURCE", url(source))
    wordpress = {
        "name": "wordpress",
        "engine": "mysql",
        "connection": {"url_env": "WP_SOURCE"},
        "databases": ["shop"],
    }
    run(vault, Config.model_validate({"sources": [wordpress]}), "nightly", 3)
    (terminal.home / "target.cnf").write_text(
        f"[client]\nhost={target.host}\nport={target.port}\nuser={target.user}\npassword={target.password}\n"
    )
    yield target
    target.sql("DROP DATABASE IF EXISTS shop", "DROP DATABASE IF EXISTS wp_copy")


def url(server: MariaDb) -> str:
    return f"mysql://{server.user}:{quote(server.password)}@{server.host}:{server.port}/"


def test_the_script_brings_a_mysql_database_back(
    mysql: MariaDb, servers: tuple[MariaDb, MariaDb], terminal: Terminal
) -> None:
    terminal.download("wordpress")
    terminal.type(commands("restore.sh"))
    assert data.contents(mysql, "shop") == data.contents(servers[0], "shop")


def test_stepvault_restores_a_mysql_database_from_a_terminal_and_compares(
    mysql: MariaDb, servers: tuple[MariaDb, MariaDb], terminal: Terminal
) -> None:
    told = terminal.type(commands("stepvault restore wordpress"), WP=url(mysql))
    assert "equal" in told
    for name in ("shop", "wp_copy"):
        assert data.contents(mysql, name) == data.contents(servers[0], "shop")


# --- what was deleted -----------------------------------------------------------------------------


def test_delete_markers_are_removed_and_the_backup_is_there_again(
    tmp_path: Path, vault: Vault, terminal: Terminal
) -> None:
    storage.client().put_bucket_versioning(
        Bucket=vault.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.txt").write_text("a")
    files = {"name": "shop", "engine": "files", "path": str(tree)}
    run_id = run(vault, Config.model_validate({"sources": [files]}), "nightly", 3)
    before = [entry.key for entry in vault.entries("backups/")]
    vault.delete(before)
    assert vault.latest("shop") is None
    terminal.type(commands("DeleteMarkers"), VAULT=vault.bucket, RUN=run_id)
    assert [entry.key for entry in vault.entries("backups/")] == before
    assert terminal.type("stepvault verify shop").startswith(
        f"shop/{run_id}: every object is whole"
    )
