"""Bytes and records that no SQLite and no Stepvault wrote: an error of ours, never another."""

import hashlib
import os
import random
import sqlite3
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepvault.engines.base import ObjectEntry, RestoreJob
from stepvault.engines.sqlite import engine
from stepvault.engines.sqlite.discovery import DatabaseObject
from stepvault.engines.sqlite.snapshot import freeze
from stepvault.engines.sqlite.streams import ObjectStream
from stepvault.engines.sqlite.wal import Header, Wal
from stepvault.errors import BackupTampered, SourceCorrupt, StepvaultError, TargetUnsupported
from stepvault.records import StoredObject
from tests.engines.driver import back_up
from tests.engines.sqlite import databases
from tests.engines.sqlite.databases import make_database

slow = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def index(page_size: int, last_frame: int = 1, pages: int = 1, salts: bytes = b"saltsalt") -> bytes:
    """The bytes of a log's index (-shm), both copies of its header alike."""
    header = struct.pack(
        "=I8xBxHII8s8s8x", 3_007_000, 1, page_size, last_frame, pages, b"smus!!mu", salts
    )
    return header * 2 + struct.pack("=I", 0)


def log(frames: list[tuple[int, bytes]], page_size: int = 512) -> bytes:
    """A log's bytes: the page number and salts of each frame."""
    body = b"".join(
        struct.pack(">II8s8s", page, 0, salts, b"sumsum!!") + bytes(page_size)
        for page, salts in frames
    )
    return bytes(16) + b"saltsalt" + bytes(8) + body


class TestLog:
    def opened(self, folder: Path, shm: bytes, wal: bytes) -> tuple[int, int]:
        (folder / "x-shm").write_bytes(shm)
        (folder / "x-wal").write_bytes(wal)
        return os.open(folder / "x-shm", os.O_RDONLY), os.open(folder / "x-wal", os.O_RDONLY)

    def read(self, folder: Path, shm: bytes, wal: bytes) -> Wal | None:
        index_file, log_file = self.opened(folder, shm, wal)
        try:
            header = Header.read(index_file, "x.db")
            if header is None or header.checkpointed >= header.last_frame:  # the log is not needed
                return None
            return Wal(log_file, index_file, header, "x.db")
        finally:
            os.close(index_file)
            os.close(log_file)

    @pytest.mark.parametrize("page_size", [0, 2, 3, 256, 513, 40_000])
    def test_a_page_size_that_cannot_be_is_corrupt(self, tmp_path: Path, page_size: int) -> None:
        with pytest.raises(SourceCorrupt, match=rf"x\.db.*page size.*{page_size}"):
            self.read(tmp_path, index(page_size), log([(1, b"saltsalt")]))

    @pytest.mark.parametrize(("page_size", "really"), [(512, 512), (32_768, 32_768), (1, 65_536)])
    def test_page_sizes_that_can_be_are_read(
        self, tmp_path: Path, page_size: int, really: int
    ) -> None:
        (tmp_path / "x-shm").write_bytes(index(page_size))
        with (tmp_path / "x-shm").open("rb") as file:
            header = Header.read(file.fileno(), "x.db")
        assert header
        assert header.page_size == really

    def test_an_empty_log_has_no_page_size(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, index(0, last_frame=0), b"") is None

    def test_frames_of_pages_that_are_not_there_take_no_memory(self, tmp_path: Path) -> None:
        """A database that shrank has such frames; a forged one may name 2**32 pages."""
        rng = random.Random(1)
        frames = [(0, b"saltsalt"), (2**32 - 1, b"saltsalt"), (1, b"saltsalt")]
        frames += [(rng.randrange(2, 2**32), b"saltsalt") for _ in range(500)]
        wal = self.read(tmp_path, index(512, len(frames), 1), log(frames))
        assert wal
        assert list(wal.frames) == [0]
        assert wal.frames[0][0] == 3

    @slow
    @given(data=st.data())
    def test_any_index_and_log_give_an_error_of_ours(self, tmp_path: Path, data: Any) -> None:
        shm = mutated(data, index(512, 3, 4))
        wal = mutated(data, log([(1, b"saltsalt"), (2, b"saltsalt"), (3, b"saltsalt")]))
        with suppress(StepvaultError):
            self.read(tmp_path, shm, wal)


def mutated(data: Any, original: bytes) -> bytes:
    """The bytes with a few of them changed, perhaps cut short."""
    changed = bytearray(original)
    places = st.tuples(st.integers(0, len(changed) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, max_size=6)):
        changed[place] = value
    return bytes(changed[: data.draw(st.integers(0, len(changed)) | st.just(len(changed)))])


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_any_damage_to_a_database_gives_an_error_of_ours_or_a_database(
    tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "made.db"
    make_database(path, mode=mode)
    originals = {
        end: Path(f"{path}{end}").read_bytes()
        for end in ("", "-wal")
        if Path(f"{path}{end}").exists()
    }
    rng = random.Random(7)
    errors = 0
    for trial in range(150):
        folder = tmp_path / str(trial)
        folder.mkdir()
        for end, original in originals.items():
            data = bytearray(original)
            for _ in range(rng.randrange(6)):
                at = rng.randrange(100) if rng.random() < 0.5 else rng.randrange(len(data))
                data[at] = rng.randrange(256)
            (folder / f"x.db{end}").write_bytes(data[: rng.choice([len(data)] * 3 + [at + 1])])
        for form in ("file", "sql"):
            vault = folder / f"vault-{form}"
            source = databases.settings(folder / "x.db", form)
            try:
                back_up(engine, source, vault)
            except StepvaultError:
                errors += 1
    assert 50 < errors < 300, "the damage is too great or too small to test anything"


class Vault:
    """A backup of one database whose bytes and facts the test makes up."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "out" / "new.db"
        self.place.parent.mkdir(exist_ok=True)

    def job(self, raw: bytes, facts: dict[str, Any], name: str = "x.sqlite.zst") -> RestoreJob:
        stored = StoredObject(
            name=name, raw_bytes=len(raw), stored_bytes=len(raw), encoding="zstd", facts=facts,
            raw_sha256=hashlib.sha256(raw).hexdigest(), stored_sha256="",
        )  # fmt: skip
        return RestoreJob(
            source=databases.settings("/data/x.db"), objects=[stored], facts=[{}],
            read=lambda stored: iter([raw]), read_range=lambda *_: b"", path=self.place,
        )  # fmt: skip

    def run(self, job: RestoreJob) -> None:
        for task in engine.plan_restore(job):
            engine.restore(job, task)
        engine.differences(job)

    def left(self) -> list[str]:
        return [p.name for p in self.place.parent.iterdir()]


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


FACTS = {"path": "x.db", "format": "sql"}


@pytest.mark.parametrize("facts", [{}, {"path": None}, {"path": 7}, {"path": ["x.db"]}])
def test_facts_without_a_path_are_tampered_with(vault: Vault, facts: dict[str, Any]) -> None:
    with pytest.raises(BackupTampered, match=r"x\.sqlite\.zst"):
        vault.run(vault.job(b"", facts))
    with pytest.raises(BackupTampered, match=r"x\.sqlite\.zst"):
        engine.differences(vault.job(b"", facts))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@slow
@given(
    facts=st.fixed_dictionaries(
        {},
        optional={
            "path": st.sampled_from(["x.db", "a/b.db", "%00", "../x", "%ff.db", "x" * 300])
            | anything,
            "format": st.sampled_from(["file", "sql"]) | anything,
            "mode": st.sampled_from(["0644", "600", "-1", "0x1", "9" * 400]) | anything,
            "uid": st.integers(0, 70_000) | anything,
            "gid": st.integers(0, 70_000) | anything,
        },
    ),
    folder=st.booleans(),
)
def test_any_facts_give_an_error_of_ours(
    tmp_path: Path, facts: dict[str, Any], folder: bool
) -> None:
    vault = Vault(tmp_path)
    job = vault.job(b"", facts)
    if folder:
        job = replace(job, path=vault.place.parent)
    with suppress(StepvaultError):
        vault.run(job)
    assert not list(tmp_path.rglob("*partial*"))


SCRIPT = b"""PRAGMA encoding = 'UTF-8';
BEGIN TRANSACTION;
CREATE TABLE t (a, b TEXT);
INSERT INTO t VALUES(1, 'x;
y');
CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1;
END;
COMMIT;
"""


@slow
@given(data=st.data())
def test_any_script_gives_an_error_of_ours(tmp_path: Path, data: Any) -> None:
    vault = Vault(tmp_path)
    vault.place.unlink(missing_ok=True)
    with suppress(StepvaultError):
        vault.run(vault.job(mutated(data, SCRIPT), FACTS))
    assert vault.left() in ([], ["new.db"])


@pytest.mark.parametrize(
    "script", [b"SELECT 'a\0b';\n", b"SELECT '\xff';\n", b"SELECT 1; SELECT 2;\n", b"SELECT\0"]
)
def test_what_is_no_script_is_tampered_with(vault: Vault, script: bytes) -> None:
    with pytest.raises((BackupTampered, TargetUnsupported), match=r"x\.sqlite\.zst|new\.db"):
        vault.run(vault.job(script, FACTS))
    assert vault.left() == []


@pytest.mark.parametrize(
    "statement",
    ["ATTACH DATABASE '{other}' AS o; CREATE TABLE o.t (a);", "VACUUM INTO '{other}';"],
)
def test_a_script_reaches_no_other_file(vault: Vault, tmp_path: Path, statement: str) -> None:
    other = tmp_path / "other.db"
    script = statement.format(other=other).replace("; ", ";\n") + "\n"
    with pytest.raises(StepvaultError):
        vault.run(vault.job(script.encode(), FACTS))
    assert not other.exists()
    assert vault.left() == []


def test_comparing_with_any_file_gives_lines(vault: Vault, tmp_path: Path) -> None:
    make_database(tmp_path / "made.db", mode="DELETE")
    original = (tmp_path / "made.db").read_bytes()
    rng = random.Random(9)
    for form in ("file", "sql"):
        job = vault.job(b"something else", FACTS | {"format": form})
        for _ in range(60):
            data = bytearray(original)
            for _ in range(rng.randrange(1, 8)):
                at = rng.randrange(100) if rng.random() < 0.5 else rng.randrange(len(data))
                data[at] = rng.randrange(256)
            vault.place.write_bytes(data[: rng.choice([len(data), at])])
            assert engine.differences(job)


class Bytes:
    """An object of a bucket with these bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectEntry]:
        return iter(())

    def read(self, bucket: str, key: str, *more: Any, **named: Any) -> Iterator[bytes]:
        yield self.data


@slow
@given(data=st.data())
def test_any_object_of_a_bucket_gives_an_error_of_ours(data: Any) -> None:
    head = mutated(data, b"SQLite format 3\0" + bytes(200))
    size = data.draw(st.sampled_from([len(head), 0, 1, 2**40]))
    entry = ObjectEntry("x.db", size, "etag", 0.0)
    database = DatabaseObject("s3://b/x.db", "x.db", size, "b", entry, Bytes(head))
    with suppress(StepvaultError):
        list(ObjectStream("x", database, threading.Event(), []).read())


def test_a_tracer_that_replaces_connect_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives a wrapper, which the backup of another connection refuses as its target."""

    class Traced:
        def __init__(self, connection: sqlite3.Connection) -> None:
            self.connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self.connection, name)

    make_database(tmp_path / "x.db")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: Traced(connect(*a, **k)))
    monkeypatch.setattr(
        "stepvault.engines.sqlite.snapshot.companion", lambda path, end: Path("/nowhere")
    )
    with freeze(tmp_path / "x.db", "x.db", tmp_path, threading.Event(), []) as snapshot:
        assert snapshot.method == "copy"
        assert sum(len(piece) for piece in snapshot.read()) == snapshot.size
