"""Users, roles and grants as a script beside the data."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from devtools.servers.mariadb import MariaDb
from stepvault.engines.base import Connection
from tests.engines.driver import back_up
from tests.engines.mysql.rig import MariaDbRig

_ACCOUNTS = "'o''b'@'127.0.0.1'", "keeper@127.0.0.1"


@pytest.fixture
def named(brand: str, rig: MariaDbRig) -> Iterator[str]:
    """A database with accounts that may use it."""
    name = rig.new_database()
    default = "FOR" if brand == "mariadb" else "TO"
    rig.server.sql(
        "DROP ROLE IF EXISTS reading",
        *(f"DROP USER IF EXISTS {account}" for account in _ACCOUNTS),
        f"CREATE TABLE {name}.t (id INT PRIMARY KEY, n INT)",
        "CREATE ROLE reading",
        f"GRANT SELECT ON {name}.* TO reading",
        "CREATE USER 'o''b'@'127.0.0.1' IDENTIFIED BY 'it''s mine'",
        "CREATE USER keeper@127.0.0.1 IDENTIFIED BY 'keep' WITH MAX_USER_CONNECTIONS 5",
        "GRANT reading TO keeper@127.0.0.1",
        f"SET DEFAULT ROLE reading {default} keeper@127.0.0.1",
        f"GRANT SELECT (id), INSERT ON {name}.t TO 'o''b'@'127.0.0.1' WITH GRANT OPTION",
    )
    yield name
    rig.server.sql(
        "DROP ROLE IF EXISTS reading", *(f"DROP USER IF EXISTS {account}" for account in _ACCOUNTS)
    )


def grants(server: MariaDb) -> list[Any]:
    return [
        sorted(
            re.sub(" IDENTIFIED BY PASSWORD '.*?'", "", str(row[0]))
            for row in server.sql(f"SHOW GRANTS FOR {who}")
        )
        for who in (*_ACCOUNTS, "reading")
    ]


def run(server: MariaDb, folder: Path) -> str:
    """Run the script on the other server as its header says; returns the script."""
    plain = subprocess.run(
        ["zstd", "-dcq", str(folder / "accounts.grants.zst")], capture_output=True, check=True
    )
    subprocess.run(
        ["mysql", "-h", server.host, "-P", str(server.port), "-u", server.user, "--force"],
        input=plain.stdout,
        env=os.environ | {"MYSQL_PWD": server.password},
        capture_output=True,
    )
    return plain.stdout.decode()


@pytest.mark.parametrize("accounts", ["without-passwords", "with-passwords"])
def test_the_script_creates_accounts_roles_and_grants(
    brand: str, rig: MariaDbRig, named: str, other: MariaDb, tmp_path: Path, accounts: str
) -> None:
    source = rig.source(named, accounts=accounts)
    back_up(rig.engine, source, tmp_path, connection=rig.as_root(named))
    other.sql(
        "DROP ROLE IF EXISTS reading",
        *(f"DROP USER IF EXISTS {account}" for account in _ACCOUNTS),
        f"CREATE DATABASE {named}",
        f"CREATE TABLE {named}.t (id INT PRIMARY KEY, n INT)",
    )
    try:
        script = run(other, tmp_path)
        assert grants(other) == grants(rig.server)
        hashes = [
            str(row[0])
            for row in rig.server.sql(
                "SELECT HEX(authentication_string) FROM mysql.user WHERE user IN ('keeper', 'o''b')"
            )
        ]
        stored = {h for h in hashes if h in script or bytes.fromhex(h).decode("latin1") in script}
        login = Connection("127.0.0.1", other.port, "keeper", "keep")
        tls: dict[str, Any] = {}

        def log_in() -> None:
            pymysql.connect(
                host=login.host,
                port=int(login.port or 0),
                user="keeper",
                password="keep",
                database=named,
                **tls,
            ).close()

        if accounts == "with-passwords":
            assert len(stored) == 2
            log_in()
        else:
            assert not stored
            with pytest.raises(pymysql.err.OperationalError, match=r"locked|denied"):
                log_in()
            other.sql("ALTER USER keeper@127.0.0.1 IDENTIFIED BY 'keep' ACCOUNT UNLOCK")
            log_in()
    finally:
        other.sql(
            f"DROP DATABASE {named}",
            "DROP ROLE IF EXISTS reading",
            *(f"DROP USER IF EXISTS {a}" for a in _ACCOUNTS),
        )


def test_who_may_not_read_them_is_warned_and_the_rest_is_backed_up(
    rig: MariaDbRig, named: str, tmp_path: Path
) -> None:
    rig.server.sql(f"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON {named}.* TO keeper@127.0.0.1")
    at = Connection("127.0.0.1", rig.server.port, "keeper", "keep")
    (tmp_path / "a").mkdir()
    [result] = back_up(rig.engine, rig.source(named), tmp_path / "a", connection=at)
    assert [w for w in result.warnings if w.startswith("users and grants are not in the backup")]
    assert "accounts" not in {o.facts["kind"] for o in result.objects}
    (tmp_path / "b").mkdir()
    [result] = back_up(
        rig.engine, rig.source(named, accounts="none"), tmp_path / "b", connection=at
    )
    assert not [w for w in result.warnings if "grants" in w]
