"""Patterns for databases and tables."""

from stepvault.engines.mysql import inventory
from stepvault.engines.mysql.inventory import matches
from stepvault.engines.mysql.session import connect
from tests.engines.mysql.rig import MariaDbRig


def test_patterns_name_tables_with_or_without_their_database() -> None:
    assert matches("shop", "orders", ["ord*"])
    assert matches("shop", "orders", ["shop.order?"])
    assert not matches("shop", "orders", ["other.orders"])
    assert not matches("shop", "orders", ["order"])
    assert matches("shop", "a[1]", ["a[1]"])


def test_a_pattern_for_databases_means_the_users(rig: MariaDbRig) -> None:
    """The server's own can be named in full."""
    name = rig.new_database()
    session = connect(rig.as_root(name))
    found = [
        inventory.databases(session, patterns, None)[0] for patterns in (["*"], ["mysql", "m*"])
    ]
    session.close()
    assert all(name in some for some in found)
    assert not {"mysql", "sys", "information_schema", "performance_schema"} & set(found[0])
    assert "mysql" in found[1]
