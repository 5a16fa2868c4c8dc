"""Databases in all the states and places they are found in."""

import os
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import zstandard

from stepvault import storage
from stepvault.buckets import Buckets
from stepvault.engines.base import Job, ObjectEntry
from stepvault.engines.mounts import is_network
from stepvault.engines.sqlite import engine, session, snapshot
from stepvault.errors import (
    ShortRead,
    SourceBusy,
    SourceChanged,
    SourceCorrupt,
    SourceDenied,
    SourceMissing,
    SourceUnsupported,
)
from stepvault.settings import SqliteSource
from tests.engines.driver import back_up
from tests.engines.sqlite.databases import (
    as_nobody,
    content,
    make_database,
    only_facts,
    round_trip,
    settings,
)


def log_kept(path: Path) -> sqlite3.Connection:
    """A connection that leaves the write-ahead log behind, as a killed program does."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def close_for_good(path: Path) -> None:
    """Have SQLite put the log into the file and remove it."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint").fetchall()
    connection.close()
    assert [p.name for p in path.parent.glob(f"{path.name}*")] == [path.name]


def refused(source: SqliteSource, folder: Path, error: type[Exception], *words: str) -> None:
    with pytest.raises(error) as caught:
        back_up(engine, source, folder / "vault")
    for word in words:
        assert word in str(caught.value)
    assert not list((folder / "vault").rglob("*.zst"))


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_any_page_size_is_overlaid_by_the_log(tmp_path: Path, page_size: int) -> None:
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA page_size = {page_size}")
    connection.execute("CREATE TABLE first (x)")
    connection.close()
    make_database(path, 3)
    result, place = round_trip(settings(path), tmp_path)
    assert only_facts(result) | {"pages": 0} == {
        "path": "shop.db", "format": "file", "journal_mode": "wal", "method": "overlay",
        "page_size": page_size, "pages": 0,
        "mode": f"{path.stat().st_mode & 0o777:04o}", "uid": os.getuid(), "gid": os.getgid(),
    }  # fmt: skip
    assert content(place) == content(path)
    assert place.stat().st_size == only_facts(result)["pages"] * page_size


def test_an_empty_log_and_a_checkpointed_log_need_the_file_only(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    make_database(path)
    open_elsewhere = sqlite3.connect(path)
    for mode in ("PASSIVE", "TRUNCATE"):
        open_elsewhere.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        result, place = round_trip(settings(path), tmp_path / mode)
        assert only_facts(result)["method"] == "file"
        assert content(place) == content(path)
    open_elsewhere.close()


def test_pages_that_are_only_in_the_log_are_found(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    connection = log_kept(path)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.executemany("INSERT INTO t VALUES (?)", [(bytes(3_000),)] * 2_000)
    connection.close()
    assert path.stat().st_size < 20_000
    _, place = round_trip(settings(path), tmp_path)
    assert content(place) == content(path)


def test_free_pages_that_were_never_written_are_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    connection = log_kept(path)
    connection.execute("CREATE TABLE kept (x)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE dropped (x)")
    connection.executemany("INSERT INTO dropped VALUES (?)", [(bytes(3_000),)] * 2_000)
    connection.execute("DROP TABLE dropped")
    connection.execute("INSERT INTO kept VALUES (1)")
    connection.execute("COMMIT")
    connection.close()
    result, place = round_trip(settings(path), tmp_path)
    assert only_facts(result)["pages"] > 1_000
    assert content(place) == content(path)


def test_a_transaction_that_a_crash_cut_short_is_rolled_back(tmp_path: Path) -> None:
    """The journal of the killed program is beside a file that holds half its transaction."""
    path, crashed = tmp_path / "shop.db", tmp_path / "crashed" / "shop.db"
    make_database(path, 2, mode="DELETE")
    expected = content(path)
    program = sqlite3.connect(path, isolation_level=None)
    program.execute("PRAGMA cache_size = 5")
    program.execute("BEGIN")
    program.execute("UPDATE item SET picture = randomblob(8000), price = 0")
    crashed.parent.mkdir()
    for end in ("", "-journal"):
        crashed.with_name(f"shop.db{end}").write_bytes(Path(f"{path}{end}").read_bytes())
    program.close()
    assert crashed.read_bytes() != path.read_bytes()
    _, place = round_trip(settings(crashed), tmp_path)
    assert content(place) == expected


@pytest.mark.parametrize("checked", [snapshot.CHECKED_BYTES, 0])
def test_a_file_cut_below_its_log_is_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: int
) -> None:
    """SQLite opens it, as the log says how long it is; found with and without the page check."""
    monkeypatch.setattr(snapshot, "CHECKED_BYTES", checked)
    path = tmp_path / "shop.db"
    make_database(path, 4)
    os.truncate(path, path.stat().st_size // 2)
    refused(settings(path), tmp_path, SourceCorrupt, "shop.db")


def test_a_truncated_file_without_log_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    make_database(path, mode="DELETE")
    os.truncate(path, path.stat().st_size // 2)
    refused(settings(path), tmp_path, SourceCorrupt, str(path), "integrity_check")


def test_a_page_of_garbage_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    make_database(path, mode="DELETE")
    with path.open("r+b") as file:
        file.seek(4_096 * 2)
        file.write(b"\xff" * 4_096)
    refused(settings(path), tmp_path, SourceCorrupt, str(path))


OF_THE_APPLICATION = {
    "collation of an index": "CREATE TABLE t (a TEXT COLLATE german); CREATE INDEX i ON t (a)",
    "collation of a key": "CREATE TABLE t (a TEXT PRIMARY KEY COLLATE german) WITHOUT ROWID",
    "function of a check": "CREATE TABLE t (a TEXT CHECK (is_word(a)))",
}


def with_rules_of_the_application(path: Path, tables: str) -> None:
    connection = sqlite3.connect(path)
    connection.create_collation("german", lambda a, b: (a > b) - (a < b))
    connection.create_function("is_word", 1, str.isalpha, deterministic=True)
    connection.executescript(f"{tables}; INSERT INTO t VALUES ('a'), ('b');")
    connection.close()


@pytest.mark.parametrize("tables", OF_THE_APPLICATION.values(), ids=OF_THE_APPLICATION)
def test_what_only_the_application_can_check_is_copied_with_a_warning(
    tmp_path: Path, tables: str
) -> None:
    path = tmp_path / "shop.db"
    with_rules_of_the_application(path, tables)
    result, place = round_trip(settings(path), tmp_path)
    assert place.read_bytes() == path.read_bytes()
    assert "could not check it (" in result.warnings[-1]
    refused(settings(path, "sql"), tmp_path / "sql", SourceUnsupported, 'format = "file"')


BROKEN_RULES = {
    "check": ("(a)", "(a CHECK (a <> 'x'))", "CHECK constraint failed in t"),
    "not null": ("(a, b)", "(a, b NOT NULL)", "NULL value in t.b"),
    "type": ("(a ANY) STRICT", "(a INT) STRICT", "non-INT value in t.a"),
}


def with_broken_rules(path: Path, then: str, now: str) -> None:
    """A rule that was added when there were rows already, as programs do that know SQLite well."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"CREATE TABLE t {then}")
    connection.execute("INSERT INTO t (a) VALUES ('x'), ('x')")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ?, ?)", (then, now))
    connection.close()


@pytest.mark.parametrize(("then", "now", "finding"), BROKEN_RULES.values(), ids=BROKEN_RULES)
def test_rows_that_break_rules_are_copied_with_a_warning(
    tmp_path: Path, then: str, now: str, finding: str
) -> None:
    path = tmp_path / "shop.db"
    with_broken_rules(path, then, now)
    result, place = round_trip(settings(path), tmp_path)
    assert place.read_bytes() == path.read_bytes()
    assert f"rows break rules of their tables ({finding})" in result.warnings[-1]
    refused(settings(path, "sql"), tmp_path / "sql", SourceUnsupported, 'format = "file"')


def test_damage_is_found_behind_rows_that_break_rules(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE u (a); INSERT INTO u VALUES ('first')")
    connection.close()
    with_broken_rules(path, *BROKEN_RULES["check"][:2])  # SQLite looks at the newest table first
    longer = path.read_bytes().replace(b"\x02\x17first", b"\x02\x19first")
    path.write_bytes(longer)  # the record says that it holds a byte more than it does
    refused(settings(path), tmp_path, SourceCorrupt, str(path), "malformed")


def test_an_encrypted_file_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    encrypted, text = tmp_path / "secret.db", tmp_path / "text.db"
    encrypted.write_bytes(os.urandom(16_384))
    text.write_text("dear diary\n" * 1_000)
    refused(settings(encrypted), tmp_path, SourceUnsupported, str(encrypted), "encrypted")
    refused(settings(text), tmp_path, SourceCorrupt, str(text), "not an SQLite database")


def test_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    refused(settings(tmp_path), tmp_path, SourceUnsupported, "folder", "/**/*.db")
    os.mkfifo(tmp_path / "pipe.db")
    refused(settings(tmp_path / "pipe.db"), tmp_path, SourceUnsupported, "regular file")


def test_a_file_that_may_not_be_read_is_denied(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    path = tmp_path / "shop.db"
    make_database(path, mode="DELETE")
    path.chmod(0)
    with as_nobody():
        refused(settings(path), tmp_path, SourceDenied, str(path))


def test_a_database_locked_by_another_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOCK_WAIT", 0.1)
    path = tmp_path / "shop.db"
    make_database(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    refused(settings(path), tmp_path, SourceBusy, str(path), "locked")
    other.close()


def test_a_file_is_not_read_twice_at_a_time(tmp_path: Path) -> None:
    """Ending the one copy would drop SQLite's locks under the other."""
    path = tmp_path / "shop.db"
    make_database(path)
    (tmp_path / "link.db").symlink_to(path)
    with engine.open(Job(source=settings(path), scratch=tmp_path)):
        refused(settings(tmp_path / "link.db"), tmp_path, SourceBusy, "link.db", "one source only")
    back_up(engine, settings(path), tmp_path / "vault")


def test_the_sources_folder_is_left_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    make_database(folder / "with-log.db")
    make_database(folder / "clean.db", mode="DELETE")
    make_database(folder / "closed.db")
    close_for_good(folder / "closed.db")

    def look() -> dict[str, tuple[int, int]]:
        found = {p.name: p.stat() for p in folder.iterdir() if not p.name.endswith("-shm")}
        return {name: (s.st_size, s.st_mtime_ns) for name, s in found.items()}

    before = look()
    back_up(engine, settings(folder / "*.db"), tmp_path / "vault")
    assert look() == before


class TestReadOnlyFolder:
    """What a function's user may read and not write."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "read-only"
        folder.mkdir()
        for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            above.chmod(0o755)
        (tmp_path / "scratch").mkdir(mode=0o777)
        (tmp_path / "scratch").chmod(0o777)
        yield folder
        folder.chmod(0o755)

    def test_a_closed_database_is_read_and_the_warning_says_how(
        self, folder: Path, tmp_path: Path
    ) -> None:
        make_database(folder / "shop.db")
        close_for_good(folder / "shop.db")
        folder.chmod(0o555)
        with as_nobody():
            result, place = round_trip(settings(folder / "shop.db"), tmp_path / "scratch")
        assert "read-only" in result.warnings[0]
        assert only_facts(result)["method"] == "file"
        assert place.read_bytes() == (folder / "shop.db").read_bytes()

    def test_a_log_without_its_index_cannot_be_read(self, folder: Path, tmp_path: Path) -> None:
        make_database(folder / "shop.db")
        (folder / "shop.db-shm").unlink()
        folder.chmod(0o555)
        with as_nobody():
            refused(settings(folder / "shop.db"), tmp_path / "scratch", SourceDenied, "-wal")

    def test_an_index_that_cannot_be_written_is_got_round_with_a_copy(
        self, folder: Path, tmp_path: Path
    ) -> None:
        make_database(folder / "shop.db", 5)
        expected = content(folder / "shop.db")
        folder.chmod(0o555)
        (folder / "shop.db-shm").chmod(0o444)
        scratch = tmp_path / "scratch"
        with as_nobody():
            result, place = round_trip(settings(folder / "shop.db"), scratch, scratch=scratch)
        assert only_facts(result)["method"] == "copy"
        assert content(place) == expected
        assert not list(scratch.glob("copy*"))


def test_a_schema_only_a_newer_sqlite_reads_is_copied_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 2)")
    if sqlite3.sqlite_version_info >= (3, 44):  # then this SQLite reads what apsw's writes
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_schema VALUES ('view', 'v', 'v', 0, 'CREATE VIEW v AS ?future?')"
        )
    else:
        connection.execute("CREATE VIEW v AS SELECT group_concat(a ORDER BY b) FROM t")
    connection.close()
    vault = tmp_path / "vault"
    (result,) = back_up(engine, settings(path), vault)
    assert "cannot read its schema" in result.warnings[0]
    assert result.objects[0].raw_bytes == path.stat().st_size


class TestNetworkFileSystem:
    """No NFS server runs here: only the detection is replaced, the locks are SQLite's own."""

    @pytest.fixture(autouse=True)
    def on_nfs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "is_network", lambda device: True)
        monkeypatch.setattr(session, "LOCK_WAIT", 0.1)

    def test_a_log_in_use_elsewhere_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "shop.db"
        make_database(path)
        elsewhere = sqlite3.connect(path)
        elsewhere.execute("SELECT count(*) FROM item").fetchall()
        refused(settings(path), tmp_path, SourceUnsupported, "network", "journal_mode=DELETE")
        elsewhere.close()

    def test_a_log_nobody_uses_is_put_into_the_file_first(self, tmp_path: Path) -> None:
        path = tmp_path / "shop.db"
        make_database(path)
        expected = content(path)
        result, place = round_trip(settings(path), tmp_path)
        assert "network" in result.warnings[0]
        assert content(place) == expected

    def test_a_rollback_journal_is_fine(self, tmp_path: Path) -> None:
        path = tmp_path / "shop.db"
        make_database(path, mode="DELETE")
        _, place = round_trip(settings(path), tmp_path)
        assert content(place) == content(path)


def test_a_network_mount_is_known_by_its_device(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "36 35 98:0 /a /mnt/a rw,noatime master:1 - ext4 /dev/root rw\n"
        "90 35 0:51 / /mnt/efs rw,relatime shared:9 - nfs4 127.0.0.1:/ rw,vers=4.1\n"
    )
    assert is_network(os.makedev(0, 51), mounts)
    assert not is_network(os.makedev(98, 0), mounts)
    assert not is_network(tmp_path.stat().st_dev)


class TestPattern:
    def test_one_star_stays_in_its_folder(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        (root / "deep").mkdir(parents=True)
        for name in ("a.db", "b.sqlite", "deep/c.db"):
            make_database(root / name)
        (result,) = back_up(engine, settings(root / "*.db"), tmp_path / "v1")
        assert [o.facts["path"] for o in result.objects] == ["a.db"]
        (result,) = back_up(engine, settings(root / "**"), tmp_path / "v2")
        assert sorted(o.name for o in result.objects) == [
            "a.sqlite.zst", "b.sqlite.zst", "deep/c.sqlite.zst",
        ]  # fmt: skip

    def test_a_file_with_two_names_is_stored_once_and_said(self, tmp_path: Path) -> None:
        make_database(tmp_path / "a.db", mode="DELETE")
        (tmp_path / "b.db").symlink_to("a.db")
        os.link(tmp_path / "a.db", tmp_path / "c.db")
        (result,) = back_up(engine, settings(tmp_path / "*.db"), tmp_path / "v", connections=3)
        assert len(result.objects) == 1
        assert len([w for w in result.warnings if "another name of" in w]) == 2

    def test_a_name_that_is_no_text_can_be_written_down(self, tmp_path: Path) -> None:
        odd = os.fsdecode(b"odd\xff.db")
        make_database(tmp_path / odd, mode="DELETE")
        (tmp_path / f"{odd}.link.db").symlink_to(odd)
        (result,) = back_up(engine, settings(tmp_path / "*.db"), tmp_path / "vault")
        assert any("odd\\xff.db" in w for w in result.warnings)
        assert "".join(result.warnings).encode()
        (tmp_path / odd).write_text("no database")
        refused(settings(tmp_path / "*.db"), tmp_path / "v2", SourceCorrupt, "odd\\xff.db")

    def test_nothing_found_is_missing(self, tmp_path: Path) -> None:
        refused(settings(tmp_path / "*.db"), tmp_path, SourceMissing, f"{tmp_path}/*.db")
        refused(settings(tmp_path / "no" / "*.db"), tmp_path, SourceMissing, f"{tmp_path}/no")

    def test_one_bad_file_is_named(self, tmp_path: Path) -> None:
        make_database(tmp_path / "good.db")
        (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 100)
        (result,) = back_up(engine, settings(tmp_path / "*.db"), tmp_path / "vault")
        assert [o.facts["path"] for o in result.objects] == ["good.db"]
        assert [w for w in result.warnings if "Thumbs.db" in w and "exclude" in w]
        (tmp_path / "good.db").unlink()
        refused(settings(tmp_path / "*.db"), tmp_path / "v2", SourceCorrupt, "Thumbs.db", "pattern")

    def test_a_folder_that_may_not_be_searched_is_denied(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            folder.chmod(0o755)
        make_database(tmp_path / "a.db", mode="DELETE")
        (tmp_path / "closed").mkdir(mode=0)
        with as_nobody():
            refused(settings(tmp_path / "**" / "*.db"), tmp_path, SourceDenied, "closed")


class Folder:
    """Objects of buckets that are files in folders."""

    def __init__(self, root: Path, cut: int = 0) -> None:
        self.root, self.cut = root, cut

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectEntry]:
        for path in sorted((self.root / bucket).rglob("*")):
            key = str(path.relative_to(self.root / bucket))
            if path.is_file() and key.startswith(prefix):
                yield ObjectEntry(key, path.stat().st_size, "etag", path.stat().st_mtime)

    def read(
        self, bucket: str, key: str, etag: str | None = None, part: tuple[int, int] | None = None
    ) -> Iterator[bytes]:
        assert etag == "etag"
        data = (self.root / bucket / key).read_bytes()
        data = data[: len(data) - self.cut]
        yield from (data[at : at + 1_000] for at in range(0, len(data), 1_000))


class TestObject:
    @pytest.fixture
    def bucket(self, tmp_path: Path) -> Path:
        bucket = tmp_path / "s3" / "bucket" / "apps"
        bucket.mkdir(parents=True)
        make_database(bucket / "shop.db", mode="DELETE")
        return bucket

    def test_it_is_copied_as_it_is(self, bucket: Path, tmp_path: Path) -> None:
        source = settings("s3://bucket/apps/shop.db")
        result, place = round_trip(source, tmp_path, plan=None, buckets=Folder(tmp_path / "s3"))
        assert result.warnings == []
        assert place.read_bytes() == (bucket / "shop.db").read_bytes()

    def test_wal_mode_is_warned_of(self, bucket: Path, tmp_path: Path) -> None:
        make_database(bucket / "wal.db")
        source = settings("s3://bucket/apps/*.db")
        (result,) = back_up(engine, source, tmp_path / "v", buckets=Folder(tmp_path / "s3"))
        assert sorted(o.facts["path"] for o in result.objects) == ["shop.db", "wal.db"]
        (warning,) = result.warnings
        assert "apps/wal.db" in warning
        assert "-wal" in warning

    def test_a_short_or_wrong_object_is_refused(self, bucket: Path, tmp_path: Path) -> None:
        source, vault = settings("s3://bucket/apps/shop.db"), tmp_path / "v"
        with pytest.raises(ShortRead, match=r"shop\.db"):
            back_up(engine, source, vault, buckets=Folder(tmp_path / "s3", cut=1))
        os.truncate(bucket / "shop.db", 8_192)
        with pytest.raises(SourceCorrupt, match="header says"):
            back_up(engine, source, vault, buckets=Folder(tmp_path / "s3"))
        (bucket / "shop.db").write_text("not a database")
        with pytest.raises(SourceCorrupt, match="not an SQLite database"):
            back_up(engine, source, vault, buckets=Folder(tmp_path / "s3"))
        (bucket / "shop.db").unlink()
        with pytest.raises(SourceMissing, match=r"s3://bucket/apps/shop\.db"):
            back_up(engine, source, vault, buckets=Folder(tmp_path / "s3"))

    @pytest.mark.parametrize("folder", ["apps/", ""])
    def test_databases_come_back_whatever_their_keys_are(
        self, aws: str, tmp_path: Path, folder: str
    ) -> None:
        bucket = f"source-{uuid.uuid4().hex[:12]}"
        storage.client().create_bucket(Bucket=bucket)
        expected = {
            "one.db/%": "one.db",
            "one.db/two.db": "one.db/two.db",
            "t/%2F/three.db": "t//three.db",
            "t/three.db": "t/three.db",
            "t/%252F/three.db": "t/%2F/three.db",
            "t/%2E%2E/four.db": "t/../four.db",
        }
        made = {}
        for place, key in expected.items():
            make_database(tmp_path / "made.db", mode="DELETE")
            with sqlite3.connect(tmp_path / "made.db") as connection:
                connection.execute("UPDATE note SET text = ?", (key,))
            connection.close()
            made[place] = (tmp_path / "made.db").read_bytes()
            (tmp_path / "made.db").unlink()
            storage.client().put_object(Bucket=bucket, Key=folder + key, Body=made[place])
        source = settings(f"s3://{bucket}/{folder}**")
        _, restored = round_trip(source, tmp_path, buckets=Buckets())
        files = (p for p in restored.rglob("*") if p.is_file())
        assert {str(p.relative_to(restored)): p.read_bytes() for p in files} == made

    def test_a_script_of_it_is_refused(self, bucket: Path, tmp_path: Path) -> None:
        refused(settings("s3://bucket/apps/shop.db", "sql"), tmp_path, SourceUnsupported, "file")


def test_a_copy_is_the_database_compressed(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    make_database(path)
    back_up(engine, settings(path), tmp_path / "vault")
    stored = (tmp_path / "vault" / "shop.sqlite.zst").read_bytes()
    plain = tmp_path / "shop.sqlite"
    plain.write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(stored))
    assert content(plain) == content(path)


def test_a_file_replaced_while_it_is_opened_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our descriptor and SQLite's would be of two files."""
    path, newer = tmp_path / "shop.db", tmp_path / "newer.db"
    make_database(path, mode="DELETE")
    make_database(newer, mode="DELETE")

    def connect_late(*arguments: Any) -> session.Session:
        newer.rename(path)
        return session.connect(*arguments)

    monkeypatch.setattr(snapshot, "connect", connect_late)
    refused(settings(path), tmp_path, SourceChanged, str(path), "replaced")
