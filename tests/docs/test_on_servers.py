"""What the documents say of PostgreSQL, MySQL and MariaDB, done on real servers as it stands there."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
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
from tests.docs.terminal import ROOT, Terminal
from tests.engines.mysql import data
from tests.engines.postgres.rig import holds, make_odd

README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def config_of(name: str, engine: str, url_in: str, **more: object) -> Config:
    source = {"name": name, "engine": engine, "connection": {"url_env": url_in}} | more
    return Config.model_validate({"sources": [source]})


def sql_of(holding: str) -> str:
    """The one SQL block of docs/operations.md that holds the text, with a password filled in."""
    blocks = re.findall(r"```sql\n(.*?)```", OPERATIONS, re.DOTALL)
    (block,) = [block for block in blocks if holding in block]
    return re.sub(r"^--.*\n", "", str(block), flags=re.MULTILINE).replace("…", "secret")


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
        run(vault, config_of("shop", "postgres", "SHOP_SOURCE"), "nightly", 3)
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


def test_the_account_of_the_documents_can_back_up_a_postgresql_database(
    shop: PostgresServer, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{shop.home}/bin:{os.environ['PATH']}")
    shop.psql(sql_of("CREATE ROLE"))
    shop.psql(sql_of("LARGE OBJECT"), database="shop")
    try:
        own = shop.url("shop").replace(
            f"//{shop.user}:{quote(shop.password)}@", "//stepvault:secret@"
        )
        monkeypatch.setenv("SHOP_SOURCE", own)
        run_id = run(vault, config_of("shop", "postgres", "SHOP_SOURCE"), "nightly", 3)
        assert vault.manifest("shop", run_id).rows > 20_000
    finally:
        shop.psql("DROP OWNED BY stepvault; DROP ROLE stepvault", database="shop")


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
    run(vault, config_of("wordpress", "mysql", "WP_SOURCE", databases=["shop"]), "nightly", 3)
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


def test_the_account_of_the_documents_can_back_up_a_mysql_database(
    servers: tuple[MariaDb, MariaDb], vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers[0]
    account = sql_of("CREATE USER") + (sql_of("SHOW_ROUTINE") if isinstance(server, MySql) else "")
    server.sql(*filter(str.strip, account.split(";")))
    try:
        monkeypatch.setenv("WP_SOURCE", f"mysql://stepvault:secret@{server.host}:{server.port}/")
        config = config_of("wordpress", "mysql", "WP_SOURCE", databases=["shop"])
        manifest = vault.manifest("wordpress", run(vault, config, "nightly", 3))
        assert [w for w in manifest.warnings if "not covered by the snapshot" not in w] == []
        assert {o.facts.get("kind") for o in manifest.objects} >= {
            "table",
            "data",
            "view",
            "triggers",
        }
    finally:
        server.sql("DROP USER stepvault@'%'")


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
