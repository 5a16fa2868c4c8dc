"""What the user may not see is an error or a warning, never a gap."""

from pathlib import Path
from typing import Any

import pytest

from stepvault.engines.base import Connection
from stepvault.errors import (
    SourceDenied,
)
from tests.engines.driver import back_up
from tests.engines.mysql.helpers import fails
from tests.engines.mysql.rig import MariaDbRig

pytestmark = pytest.mark.usefixtures("pair")


@pytest.mark.parametrize(
    ("grant", "lacks"),
    [
        ("SELECT ON pair.larger", "EVENT, SELECT, SHOW VIEW, TRIGGER"),
        ("SELECT ON pair.*", "EVENT, SHOW VIEW, TRIGGER"),
        ("SELECT, SHOW VIEW, EVENT ON `p_ir`.*", "TRIGGER"),
    ],
)
def test_what_the_user_may_not_see_is_not_left_out_in_silence(
    rig: MariaDbRig, tmp_path: Path, grant: str, lacks: str
) -> None:
    rig.server.sql(
        "CREATE OR REPLACE USER half@127.0.0.1 IDENTIFIED BY 'half'",
        f"GRANT {grant} TO half@127.0.0.1",
    )
    connection = Connection("127.0.0.1", rig.server.port, "half", "half")
    message = fails(rig, tmp_path, SourceDenied, connection=connection)
    assert f"lacks {lacks} on database pair" in message
    assert f"GRANT {lacks} ON `pair`.* TO 'half'@'127.0.0.1'" in message


def test_triggers_of_tables_named_one_by_one_are_not_left_out_in_silence(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    rig.server.sql(
        "CREATE OR REPLACE USER half@127.0.0.1 IDENTIFIED BY 'half'",
        "GRANT SELECT ON pair.* TO half@127.0.0.1",
    )
    connection = Connection("127.0.0.1", rig.server.port, "half", "half")
    named: dict[str, Any] = {"tables": ["larger"]}
    message = fails(rig, tmp_path, SourceDenied, connection=connection, settings=named)
    assert "lacks TRIGGER on table pair.larger" in message
    rig.server.sql("GRANT TRIGGER ON pair.larger TO half@127.0.0.1")
    back_up(rig.engine, rig.source("pair", **named), tmp_path, connection=connection)
    fails(rig, tmp_path / "rows", SourceDenied, connection=connection, settings={"tables": ["*"]})


#: Grants that show less than they seem to.
_SEEMING = {
    "a role that is not active": [
        "CREATE ROLE seer",
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON pair.* TO seer",
        "GRANT SELECT, SHOW VIEW, EVENT ON pair.* TO half@127.0.0.1",
        "GRANT seer TO half@127.0.0.1",
    ],
    "a closer grant takes the place of a wider one": [
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `p%`.* TO half@127.0.0.1",
        "GRANT SELECT, SHOW VIEW, EVENT ON pair.* TO half@127.0.0.1",
    ],
    "a part is taken back": [
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO half@127.0.0.1",
        "REVOKE TRIGGER ON pair.* FROM half@127.0.0.1",
    ],
}


@pytest.mark.parametrize("seeming", _SEEMING)
def test_a_trigger_is_stored_or_its_absence_an_error(
    brand: str, rig: MariaDbRig, tmp_path: Path, seeming: str
) -> None:
    rig.server.sql(
        "CREATE TRIGGER pair.guard BEFORE INSERT ON pair.smaller FOR EACH ROW SET NEW.t = 'new'",
        "DROP ROLE IF EXISTS seer",
        "CREATE OR REPLACE USER half@127.0.0.1 IDENTIFIED BY 'half'",
        "SET GLOBAL partial_revokes = ON" if brand == "mysql" else "DO 0",
    )
    statements = _SEEMING[seeming]
    if brand == "mariadb" and "REVOKE" in statements[-1]:
        statements = statements[:-1]  # there is no such thing
    if brand == "mysql" and "%" in statements[0]:
        rig.server.sql("SET GLOBAL partial_revokes = OFF")  # with it, wildcards are plain letters
    try:
        rig.server.sql(*statements)
        connection = Connection("127.0.0.1", rig.server.port, "half", "half")
        stored = message = None
        try:
            results = back_up(rig.engine, rig.source("pair"), tmp_path, connection=connection)
            stored = [o for r in results for o in r.objects if o.facts["kind"] == "triggers"]
        except SourceDenied as error:
            message = error.message
    finally:
        rig.server.sql("DROP USER half@127.0.0.1", "DROP ROLE IF EXISTS seer")
        if brand == "mysql":
            rig.server.sql("SET GLOBAL partial_revokes = OFF")
    # MySQL's roles are put in force, MariaDB has nothing to take a part back.
    if (seeming, brand) in {
        ("a role that is not active", "mysql"),
        ("a part is taken back", "mariadb"),
    }:
        assert stored
    else:
        assert message
        assert "lacks TRIGGER on database pair" in message


def test_a_database_with_a_space_in_its_name_is_granted_like_others(
    rig: MariaDbRig, tmp_path: Path
) -> None:
    rig.server.sql(
        "CREATE DATABASE `two words`",
        "CREATE TABLE `two words`.t (id INT PRIMARY KEY)",
        "CREATE OR REPLACE USER half@127.0.0.1 IDENTIFIED BY 'half'",
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `two words`.* TO half@127.0.0.1",
    )
    try:
        at = Connection("127.0.0.1", rig.server.port, "half", "half")
        [result] = back_up(rig.engine, rig.source("two words"), tmp_path, connection=at)
    finally:
        rig.server.sql("DROP DATABASE `two words`", "DROP USER half@127.0.0.1")
    assert "table" in {o.facts["kind"] for o in result.objects}
