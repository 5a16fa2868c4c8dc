"""Comparing a restored database with its backup."""

from pathlib import Path

import pymysql
import pytest

from tests.engines.driver import restore_job, run_restore
from tests.engines.mysql import corpus
from tests.engines.mysql.helpers import back_up_once
from tests.engines.mysql.rig import MariaDbRig


def test_differences_name_every_kind_of_object(rig: MariaDbRig, small: str, tmp_path: Path) -> None:
    source, target = rig.source(small), rig.target()
    job = restore_job(back_up_once(rig, tmp_path, source), tmp_path, source, **target)
    run_restore(rig.engine, job)
    rig.server.sql(
        "DROP TRIGGER guard",
        "DELETE FROM one WHERE id = 1",
        "UPDATE two SET id = 4",
        "CREATE OR REPLACE VIEW all_of_it AS SELECT 1",
        "DROP FUNCTION four",
        "CREATE FUNCTION four () RETURNS INT RETURN 5",
        "DROP TABLE counted",
        "ALTER TABLE two ADD COLUMN n INT INVISIBLE",
        database=target["connection"].database,
    )
    found = "\n".join(rig.engine.differences(job))
    for what in (
        "guard",
        "one holds 1 rows instead of 2",
        "table made",
        "all_of_it",
        "four",
        "counted",
    ):
        assert what in found
    assert "two is defined differently" in found


@pytest.mark.parametrize("application", corpus.SCHEMAS)
def test_a_schema_of_an_application_comes_back_without_a_false_alarm(
    rig: MariaDbRig, tmp_path: Path, application: str
) -> None:
    name = rig.new_database()
    connection = rig.server.connect(name)
    for statement in corpus.SCHEMAS[application]:
        connection.query(statement)
    connection.close()
    source, target = rig.source(name), rig.target()
    job = restore_job(back_up_once(rig, tmp_path, source), tmp_path, source, **target)
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []
    # By other means, and with the counters.
    there = target["connection"].database
    rows = {k: v for k, v in rig.content(source).items() if k.startswith("rows")}
    assert rows == {k: v for k, v in rig.content(target).items() if k.startswith("rows")}
    counters = (
        "SELECT table_name, COALESCE(auto_increment, 1) FROM information_schema.tables"
        " WHERE table_schema = '{}' ORDER BY 1"
    )
    assert rig.server.sql(counters.format(name)) == rig.server.sql(counters.format(there))


#: A change of each kind to a restored database, and what of it is named.
_CHANGES = {
    "a type": ("ALTER TABLE posts MODIFY price DECIMAL(9,2) NOT NULL DEFAULT '0.00'", "posts"),
    "a collation": ("ALTER TABLE users MODIFY name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL", "users"),
    "the table's collation": ("ALTER TABLE users DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "users"),
    "NULL": ("ALTER TABLE posts MODIFY price DECIMAL(8,2) NULL DEFAULT '0.00'", "posts"),
    "a default": ("ALTER TABLE posts ALTER COLUMN price SET DEFAULT 1", "posts"),
    "an index": ("ALTER TABLE personal_access_tokens DROP INDEX tokenable_index", "personal_access_tokens"),
    "a unique key": ("ALTER TABLE users DROP INDEX users_email_unique, ADD INDEX users_email_unique (email)", "users"),
    "a foreign key": ("ALTER TABLE posts DROP FOREIGN KEY posts_user_id_foreign", "posts"),
    "a member": ("ALTER TABLE posts MODIFY kind ENUM('draft','live','x') NOT NULL DEFAULT 'draft'", "posts"),
    "a comment": ("ALTER TABLE posts COMMENT = 'new'", "posts"),
    "a column's place": ("ALTER TABLE users MODIFY password VARCHAR(255) NOT NULL FIRST", "users"),
    "a counter": ("ALTER TABLE users AUTO_INCREMENT = 50", "users"),
    "a view": ("CREATE OR REPLACE VIEW live_posts AS SELECT p.id, u.name FROM posts p JOIN users u ON u.id = p.user_id", "live_posts"),
    "a view's collation": ("SET NAMES utf8mb4 COLLATE utf8mb4_bin; CREATE OR REPLACE VIEW live_posts AS SELECT p.id, u.name FROM posts p JOIN users u ON u.id = p.user_id WHERE p.kind = 'live'", "live_posts"),
    "a row": ("UPDATE users SET name = 'zoë' WHERE id = 1", "users"),
}  # fmt: skip


def test_a_real_difference_of_each_kind_is_still_seen(rig: MariaDbRig, tmp_path: Path) -> None:
    name = rig.new_database()
    connection = rig.server.connect(name)
    for statement in corpus.LARAVEL:
        connection.query(statement)
    connection.close()
    source, target = rig.source(name), rig.target()
    result = back_up_once(rig, tmp_path, source)
    there = target["connection"].database
    unseen = []
    for kind, (statements, table) in _CHANGES.items():
        rig.server.sql(f"DROP DATABASE {there}", f"CREATE DATABASE {there}")
        job = restore_job(result, tmp_path, source, **target)
        run_restore(rig.engine, job)
        rig.server.sql(*statements.split("; "), database=there)
        found = rig.engine.differences(job)
        # A column's place is part of a row's text, too.
        if not found or len(found) > 1 + (kind == "a column's place") or table not in found[0]:
            unseen.append((kind, found))
    assert not unseen


def test_on_mysql_a_column_without_any_default_stays_so(
    brand: str, rig: MariaDbRig, tmp_path: Path
) -> None:
    """CREATE TABLE gives a nullable column DEFAULT NULL; without, an INSERT must name it."""
    name = rig.new_database()
    rig.server.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(9) DEFAULT 'DEFAULT', c INT DEFAULT NULL,"
        " d TEXT, e JSON, f POINT, g INT AS (1), h TIMESTAMP NULL, i INT COMMENT 'no DEFAULT'')')",
        "ALTER TABLE t ALTER COLUMN a DROP DEFAULT, ALTER COLUMN i DROP DEFAULT",
        database=name,
    )
    source, target = rig.source(name), rig.target()
    job = restore_job(back_up_once(rig, tmp_path, source), tmp_path, source, **target)
    run_restore(rig.engine, job)
    assert rig.engine.differences(job) == []
    there = target["connection"].database
    insert = "INSERT INTO t (id) VALUES (1)"
    if brand == "mysql":
        with pytest.raises(pymysql.err.Error, match="doesn't have a default value"):
            rig.server.sql(insert, database=there)
        rig.server.sql("ALTER TABLE t ALTER COLUMN a SET DEFAULT NULL", database=there)
        assert "t is defined differently" in str(rig.engine.differences(job))
