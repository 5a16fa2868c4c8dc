"""What the server's errors become."""

import signal
import threading
from pathlib import Path

import pytest
from pymysql.constants import CR, ER

from devtools.servers.mariadb import MariaDb
from stepvault.engines.mysql import consistency as consistency_module
from stepvault.engines.mysql import errors
from stepvault.engines.mysql import session as session_module
from stepvault.engines.mysql.session import connect
from stepvault.errors import (
    Permanent,
    SourceBusy,
    SourceUnreachable,
    StepvaultError,
    TargetMissing,
    TargetUnsupported,
    Transient,
)
from tests.engines.mysql.helpers import at_first_row, fails
from tests.engines.mysql.rig import MariaDbRig


@pytest.mark.usefixtures("pair")
def test_a_lock_held_by_another_is_waited_for_briefly_and_its_holder_named(
    rig: MariaDbRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "LOCK_WAIT", 1)
    monkeypatch.setattr(consistency_module, "_PATIENCE", 0.5)
    holder = rig.server.connect("pair")
    holder.query("LOCK TABLES smaller WRITE")
    running = threading.Thread(target=lambda: holder.query("SELECT SLEEP(4) AS holding_the_lock"))
    running.start()
    try:
        message = fails(rig, tmp_path, SourceBusy)
    finally:
        running.join()
        holder.close()
    assert "pair.smaller" in message
    assert "holding_the_lock" in message
    assert "root@" in message


def test_a_killed_server_is_unreachable(tmp_path: Path) -> None:
    with MariaDb() as mortal:
        mortal.sql(
            "CREATE USER dumper@127.0.0.1 IDENTIFIED BY 'dump-me'",
            "GRANT ALL ON *.* TO dumper@127.0.0.1",
            "CREATE DATABASE pair",
            "CREATE TABLE pair.larger (id INT PRIMARY KEY, t LONGTEXT)",
        )
        mortal.sql(
            "INSERT INTO larger SELECT seq, REPEAT('x', 100000) FROM seq_1_to_200", database="pair"
        )
        kill = at_first_row(lambda: mortal.stop(signal.SIGKILL))
        message = fails(MariaDbRig(mortal), tmp_path, SourceUnreachable, watch=kill)
    assert f"127.0.0.1:{mortal.port}" in message


def known_numbers() -> dict[int, str]:
    """All errors that the driver has a name for, of the server and of its own."""
    return {
        number: name
        for constants in (ER, CR)
        for name, number in vars(constants).items()
        if isinstance(number, int) and not name.startswith(("_", "ERROR_FIRST", "ERROR_LAST"))
    }


#: What is worth another attempt: nobody has to change anything for it to work later.
_TRANSIENT = {
    "source": {
        "SourceUnreachable": {
            0, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1189, 1190, 1317, 1835, 1927,
            2002, 2003, 2005, 2006, 2013, 2026, 2055, 3169, 4031,
        },
        "SourceBusy": {1021, 1037, 1038, 1040, 1041, 1114, 1129, 1203, 1205, 1213, 1226, 1637, 1969, 3024, 3058, 3168, 3572},
        "SourceChanged": {1051, 1054, 1146, 1412, 1932},
    },
    "target": {
        "SourceUnreachable": {
            0, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1189, 1190, 1317, 1835, 1927,
            2002, 2003, 2005, 2006, 2013, 2026, 2055, 3169, 4031,
        },
        "SourceBusy": {1040, 1129, 1203, 1205, 1213, 1226, 1637, 1969, 3024, 3058, 3168, 3572},
    },
}  # fmt: skip


@pytest.mark.parametrize("side", ["source", "target"])
def test_every_error_is_transient_or_permanent_as_the_table_says(side: str) -> None:
    numbers = set(known_numbers()) | {n for m in errors.TABLE for n in m.numbers}
    assert len(numbers) > 400
    found: dict[str, set[int]] = {}
    for number in numbers:
        kind, _ = errors.meaning(number, target=side == "target")
        assert issubclass(kind, Transient) != issubclass(kind, Permanent)
        if issubclass(kind, Transient):
            found.setdefault(kind.__name__, set()).add(number)
    assert found == _TRANSIENT[side]


def test_no_number_has_two_meanings() -> None:
    numbers = [n for m in errors.TABLE for n in m.numbers]
    assert sorted(numbers) == sorted(set(numbers))


def test_the_advice_is_for_the_right_direction() -> None:
    """The source's advice is about reading, the target's about writing."""
    for number in {n for m in errors.TABLE for n in m.numbers}:
        _, source_fix = errors.meaning(number, target=False)
        kind, target_fix = errors.meaning(number, target=True)
        assert target_fix, number
        for word in ("backup when", "SHOW VIEW", "migration", "exclude_tables"):
            assert word not in target_fix, number
        for word in ("--owner", "--keep-going", "target", "restor"):
            assert word not in source_fix.lower(), number
        assert kind.__name__ not in {"SourceChanged", "SourceMissing", "SourceUnsupported"}, number
    for number, word in (
        (1227, "--owner none"), (1418, "log_bin_trust_function_creators"), (1273, "server of the source's kind"),
        (1054, "in the target"), (1146, "in the target"), (3750, "primary key"), (1173, "primary key"),
        (1290, "read-only"), (1153, "max_allowed_packet on the target"),
    ):  # fmt: skip
        assert word in errors.meaning(number, target=True)[1]


@pytest.mark.parametrize(
    ("statement", "number", "kind"),
    [
        ("SELECT none FROM t", 1054, TargetUnsupported),
        ("SELECT 1 FROM nowhere", 1146, TargetUnsupported),
        ("CREATE TABLE u (s VARCHAR(9) COLLATE klingon_ci)", 1273, TargetUnsupported),
        ("CREATE TABLE u (id INT) ENGINE=Warp", 1286, TargetUnsupported),
        ("USE nowhere_at_all", 1049, TargetMissing),
        ("CREATE VIEW v AS SELECT f()", 1305, TargetUnsupported),
        ("INSERT INTO t VALUES (1), (1)", 1062, TargetUnsupported),
        ("THIS IS NO SQL", 1064, TargetUnsupported),
    ],
)
def test_errors_of_a_real_target_are_permanent_and_say_what_to_do(
    rig: MariaDbRig, statement: str, number: int, kind: type[StepvaultError]
) -> None:
    name = rig.new_database()
    rig.server.sql(
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "SET GLOBAL default_storage_engine=InnoDB",
        database=name,
    )
    session = connect(rig.as_root(name), name, target=True)
    try:
        session.run("SET SESSION sql_mode='NO_ENGINE_SUBSTITUTION'")
        with pytest.raises(StepvaultError, match=f"answered {number}") as caught:
            session.run(statement, "table t")
    finally:
        session.close()
    assert type(caught.value) is kind
    assert caught.value.fix
    assert "table t" in str(caught.value)
