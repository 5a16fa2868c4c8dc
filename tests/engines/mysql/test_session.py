"""Connections: TLS, silent servers, servers with unusual settings."""

import importlib.util
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from devtools.servers.mariadb import MariaDb
from stepvault.engines.base import Connection
from stepvault.engines.mysql.session import connect
from stepvault.errors import (
    ConfigInvalid,
    SourceDenied,
    SourceUnreachable,
)
from tests.engines.driver import back_up, restore_job, run_restore
from tests.engines.mysql import data
from tests.engines.mysql.helpers import fails
from tests.engines.mysql.rig import MariaDbRig


@pytest.mark.usefixtures("pair")
def test_a_server_that_says_nothing_is_given_up_in_time(rig: MariaDbRig, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        connection = Connection("127.0.0.1", port, "dumper", "dump-me", connect_timeout=1)
        fails(rig, tmp_path, SourceUnreachable, connection=connection)


@pytest.mark.usefixtures("pair")
@pytest.mark.mariadb  # MySQL makes itself a certificate
def test_tls_that_the_server_does_not_speak_is_an_error(rig: MariaDbRig, tmp_path: Path) -> None:
    connection = rig.as_dumper(tls="require")
    assert "tls" in fails(rig, tmp_path, SourceUnreachable, connection=connection)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority and a server's certificate for the name localhost only."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(
        "req", *new[:-2], "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2",
            "-CAcreateserial", "-extfile", "names", "-out", "server.pem")  # fmt: skip
    for path in (folder, *folder.iterdir(), *folder.parents[:2]):
        path.chmod(0o755)
    return folder


def test_tls_is_spoken_and_the_certificate_checked(certificates: Path, tmp_path: Path) -> None:
    options = [f"--ssl-cert={certificates}/server.pem", f"--ssl-key={certificates}/server.key"]
    with MariaDb(options) as secure:
        secure.sql(
            "CREATE USER dumper@127.0.0.1 IDENTIFIED BY 'dump-me' REQUIRE SSL",
            "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO dumper@127.0.0.1",
        )
        data.make(secure, "shop", data.WIDE)
        rig = MariaDbRig(secure)
        ca = str(certificates / "ca.pem")

        def back_up_with(host: str = "127.0.0.1", **tls: Any) -> None:
            folder = tmp_path / f"{host}-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            connection = Connection(host, secure.port, "dumper", "dump-me", **tls)
            result = back_up(rig.engine, rig.filled(), folder, connection=connection, connections=2)
            assert sum(o.rows or 0 for o in result[0].objects) == 17

        back_up_with()  # prefer
        back_up_with(tls="require")
        back_up_with(tls="verify-ca", tls_ca=ca)
        back_up_with("localhost", tls="verify-full", tls_ca=ca)
        with pytest.raises(SourceUnreachable, match="certificate"):  # another name than its own
            back_up_with(tls="verify-full", tls_ca=ca)
        with pytest.raises(SourceUnreachable, match="certificate"):  # a CA nobody told us of
            back_up_with("localhost", tls="verify-full")
        with pytest.raises(ConfigInvalid, match="tls_ca"):
            back_up_with(tls="verify-ca", tls_ca="/nowhere/ca.pem")


def test_a_hostile_configuration_of_the_server_changes_nothing(tmp_path: Path) -> None:
    """Limits and modes that would end a result early or change its text."""
    options = [
        "--sql-mode=NO_BACKSLASH_ESCAPES,ANSI_QUOTES,PAD_CHAR_TO_FULL_LENGTH,STRICT_ALL_TABLES,NO_ZERO_DATE",
        "--default-time-zone=+05:30",
        "--net-write-timeout=1",
        "--character-set-server=latin1",
    ]
    with MariaDb(options) as hostile:
        hostile.sql(
            "SET GLOBAL log_bin_trust_function_creators=1",
            "CREATE USER dumper@127.0.0.1 IDENTIFIED BY 'dump-me'",
            "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO dumper@127.0.0.1",
        )
        rig = MariaDbRig(hostile)
        data.make(hostile, "shop", data.SHOP + data.WIDE)
        hostile.sql("SET GLOBAL sql_select_limit=3", "SET GLOBAL max_statement_time=0.5")
        paused = threading.Event()

        def pause_once(name: str, raw_bytes: int) -> None:
            if "orders.0" in name and not paused.is_set():
                paused.set()
                threading.Event().wait(2.5)

        results = back_up(rig.engine, rig.filled(), tmp_path, watch=pause_once, **rig.job(None))
        target = rig.target()
        job = restore_job(results, tmp_path, rig.filled(), **target)
        run_restore(rig.engine, job)
        assert rig.engine.differences(job) == []
        hostile.sql("SET GLOBAL sql_select_limit=DEFAULT", "SET GLOBAL max_statement_time=0")
        assert rig.content(target) == data.contents(hostile, "shop")
        assert paused.is_set()


@pytest.mark.mariadb
def test_an_account_that_needs_another_package_is_told_which_or_connects(rig: MariaDbRig) -> None:
    rig.server.sql(
        "INSTALL SONAME 'auth_ed25519'",
        "CREATE USER modern@127.0.0.1 IDENTIFIED VIA ed25519 USING PASSWORD('secret')",
    )
    at = Connection("127.0.0.1", rig.server.port, "modern", "secret")
    try:
        if importlib.util.find_spec("nacl"):
            connect(at).close()
            with pytest.raises(SourceDenied):
                connect(Connection("127.0.0.1", rig.server.port, "modern", "Secret"))
            return
        with pytest.raises(ConfigInvalid) as caught:
            connect(at)
        assert "modern" in str(caught.value)
        assert "PyNaCl" in str(caught.value)
        assert "tls" not in str(caught.value)
    finally:
        rig.server.sql("DROP USER modern@127.0.0.1", "UNINSTALL SONAME 'auth_ed25519'")
