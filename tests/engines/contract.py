"""What every engine must do, run over each of them.

An engine's tests write a ``Rig`` (how to make sources and targets of that kind) and subclass
``EngineContract``, or ``ServerContract`` for database servers::

    class TestContract(EngineContract):
        @pytest.fixture
        def rig(self, tmp_path):
            return SqliteRig(tmp_path)
"""

import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import zstandard

from devtools.timer import Timer
from stepvault.engines.base import EndFrame, Engine, Job, PlanJob, Snapshot
from stepvault.errors import (
    BackupTampered,
    SourceDenied,
    SourceMissing,
    SourceUnreachable,
    StepvaultError,
    TargetNotEmpty,
)
from stepvault.records import RestoreOptions, StoredObject
from tests.engines.driver import Result, back_up, restore_job, run_restore

#: Fields of RestoreJob that say where to: path or connection.
Target = dict[str, Any]

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=@+,-]*(/[A-Za-z0-9_][A-Za-z0-9_.=@+,-]*)*")


class Rig(ABC):
    """Makes the sources and targets of one engine's kind; everything below a temporary folder."""

    engine: Engine
    secrets: Sequence[str] = ()
    """Passwords in use, which no message may hold."""

    def job(self, source: Any) -> dict[str, Any]:
        """More fields of Job for that source: connection, connections."""
        return {}

    @abstractmethod
    def filled(self) -> Any:
        """Settings of a source with lifelike, awkward data; a new or the same one each time.

        At least one stream of it takes eight buffers or more to read (several MiB).
        """

    @abstractmethod
    def empty(self) -> Any:
        """Settings of a source that exists and holds nothing."""

    @abstractmethod
    def missing(self) -> Any:
        """Settings of a source that does not exist; its name or path is in the message."""

    @abstractmethod
    def target(self) -> Target:
        """A new, empty place to restore to."""

    @abstractmethod
    def occupied(self, source: Any) -> Target:
        """A place that already holds data where a restore of source would write."""

    @abstractmethod
    def content(self, where: Any) -> Any:
        """All that a source (settings) or a target (Target) holds, read by other means than the
        engine's, in a form that ``==`` compares; of a new target it says that nothing is there."""

    @abstractmethod
    def content_of(self, stored: StoredObject, target: Target) -> Any:
        """What the target holds of that stored object; falsy when it holds nothing of it."""

    @abstractmethod
    def interrupt(self, source: Any) -> None:
        """Make the reading of source that goes on right now fail (kill, cut, unlink)."""

    @abstractmethod
    def damage(self, target: Target) -> None:
        """Change one value of what was restored."""


class EngineContract:
    """The suite; subclasses provide ``rig``."""

    @pytest.fixture
    def rig(self) -> Rig:
        raise NotImplementedError

    @pytest.fixture
    def vault(self, tmp_path: Path) -> Path:
        folder = tmp_path / "vault"
        folder.mkdir()
        return folder

    def back_up(self, rig: Rig, source: Any, vault: Path, **more: Any) -> list[Result]:
        return back_up(rig.engine, source, vault, **rig.job(source), **more)

    def test_what_is_restored_equals_the_source(self, rig: Rig, vault: Path) -> None:
        source, target = rig.filled(), rig.target()
        before = rig.content(source)
        results = self.back_up(rig, source, vault)
        stored = sum(o.raw_bytes for r in results for o in r.objects)
        told = [0]
        more = {**target, "progress": lambda _, size: told.append(size)}
        job = restore_job(results, vault, source, **more)
        run_restore(rig.engine, job)
        assert 0 < sum(told) <= stored
        assert rig.content(target) == before
        assert rig.content(source) == before
        assert rig.engine.differences(job) == []

    def test_differences_names_what_was_changed_after_the_restore(
        self, rig: Rig, vault: Path
    ) -> None:
        source, target = rig.filled(), rig.target()
        job = restore_job(self.back_up(rig, source, vault), vault, source, **target)
        run_restore(rig.engine, job)
        rig.damage(target)
        assert rig.engine.differences(job)

    def test_a_repeated_restore_task_changes_nothing(self, rig: Rig, vault: Path) -> None:
        source, target = rig.filled(), rig.target()
        job = restore_job(self.back_up(rig, source, vault), vault, source, **target)
        run_restore(rig.engine, job, times=2)
        assert rig.content(target) == rig.content(source)

    def test_an_empty_source_is_a_valid_backup(self, rig: Rig, vault: Path) -> None:
        source, target = rig.empty(), rig.target()
        job = restore_job(self.back_up(rig, source, vault), vault, source, **target)
        run_restore(rig.engine, job)
        assert rig.content(target) == rig.content(source)
        assert rig.engine.differences(job) == []

    def test_a_missing_source_is_named(self, rig: Rig, vault: Path) -> None:
        source = rig.missing()
        with pytest.raises(SourceMissing) as caught:
            self.back_up(rig, source, vault)
        assert caught.value.fix
        assert _without(rig.secrets, caught.value)
        assert not list(vault.rglob("*"))

    def test_a_reader_that_fails_midway_raises_and_leaves_nothing(
        self, rig: Rig, vault: Path
    ) -> None:
        source = rig.filled()
        cut = threading.Event()

        def watch(name: str, raw_bytes: int) -> None:
            if not cut.is_set():
                cut.set()
                rig.interrupt(source)

        with pytest.raises(StepvaultError) as caught:
            self.back_up(rig, source, vault, watch=watch)
        assert cut.is_set()
        assert _without(rig.secrets, caught.value)
        assert not [p for p in vault.rglob("*") if p.is_file()]

    def test_a_cancelled_reader_raises_instead_of_ending_short(
        self, rig: Rig, tmp_path: Path
    ) -> None:
        with _opened(rig, rig.filled(), tmp_path) as snapshot:
            pieces = _all_pieces(snapshot)
            next(pieces)
            snapshot.cancel()
            with Timer() as timer, pytest.raises(StepvaultError):
                list(pieces)
        assert timer.seconds < 5

    def test_streams_have_safe_and_unique_names(self, rig: Rig, tmp_path: Path) -> None:
        with _opened(rig, rig.filled(), tmp_path) as snapshot:
            names = []
            for stream in snapshot.streams():
                for _ in stream.read():
                    pass
                stream.result()
                names.append(stream.name)
                assert _SAFE.fullmatch(stream.name), stream.name
                assert len(stream.name) <= 800
                assert stream.name.endswith(".zst") or stream.encoding == "none"
        assert names
        assert len({name.casefold() for name in names}) == len(names)

    def test_facts_survive_json(self, rig: Rig, vault: Path) -> None:
        for result in self.back_up(rig, rig.filled(), vault):
            assert json.loads(json.dumps(result.facts)) == result.facts
            for stored in result.objects:
                assert json.loads(json.dumps(stored.facts)) == stored.facts
            assert not [s for s in rig.secrets if s in json.dumps(result.facts)]

    @pytest.mark.parametrize("how", ["flipped", "truncated", "missing", "recompressed"])
    def test_a_tampered_object_is_refused_and_not_restored(
        self, rig: Rig, vault: Path, how: str
    ) -> None:
        source, target = rig.filled(), rig.target()
        results = self.back_up(rig, source, vault)
        stored = max(
            (o for r in results for o in r.objects if o.encoding == "zstd"),
            key=lambda o: o.raw_bytes,
        )
        _tamper(vault / stored.name, how)
        with pytest.raises(BackupTampered) as caught:
            run_restore(rig.engine, restore_job(results, vault, source, **target))
        assert stored.name in str(caught.value)
        assert not rig.content_of(stored, target)

    def test_a_target_that_holds_data_is_refused_and_untouched(self, rig: Rig, vault: Path) -> None:
        source = rig.filled()
        target = rig.occupied(source)
        before = rig.content(target)
        job = restore_job(self.back_up(rig, source, vault), vault, source, **target)
        with pytest.raises(TargetNotEmpty) as caught:
            rig.engine.plan_restore(job)
        assert caught.value.fix
        assert rig.content(target) == before

    def test_a_target_that_holds_data_is_overwritten_when_told(self, rig: Rig, vault: Path) -> None:
        source = rig.filled()
        target = rig.occupied(source)
        options = RestoreOptions(overwrite=True)
        job = restore_job(
            self.back_up(rig, source, vault), vault, source, options=options, **target
        )
        run_restore(rig.engine, job)
        assert rig.engine.differences(job) == []


class ServerRig(Rig):
    """A rig whose source is a database server."""

    @abstractmethod
    def wrong_password(self, source: Any) -> tuple[str, dict[str, Any]]:
        """A wrong password and the fields of Job that carry it."""

    @abstractmethod
    def unreachable(self, source: Any) -> dict[str, Any]:
        """Fields of Job with an address where nobody listens."""

    @abstractmethod
    def stalled(self, source: Any) -> AbstractContextManager[None]:
        """While inside, the server sends nothing to readers of source (SIGSTOP does it)."""


class ServerContract(EngineContract):
    """What database servers must do besides."""

    @pytest.fixture
    def rig(self) -> ServerRig:
        raise NotImplementedError

    def test_cancel_unblocks_a_reader_that_waits_for_the_server(
        self, rig: ServerRig, tmp_path: Path
    ) -> None:
        source = rig.filled()
        caught: list[BaseException] = []
        with _opened(rig, source, tmp_path) as snapshot:
            pieces = _all_pieces(snapshot)
            next(pieces)

            def read() -> None:
                try:
                    for _ in pieces:
                        pass
                except StepvaultError as error:
                    caught.append(error)

            reader = threading.Thread(target=read)
            with rig.stalled(source):
                reader.start()
                reader.join(1)
                assert reader.is_alive(), "the reader never blocked: filled() is too small"
                snapshot.cancel()
                reader.join(5)
                assert not reader.is_alive()
        assert caught

    def test_a_wrong_password_is_denied_and_not_repeated(self, rig: ServerRig, vault: Path) -> None:
        source = rig.filled()
        password, job = rig.wrong_password(source)
        with pytest.raises(SourceDenied) as caught:
            back_up(rig.engine, source, vault, **job)
        assert _without([*rig.secrets, password], caught.value)

    def test_nobody_at_the_address_is_unreachable(self, rig: ServerRig, vault: Path) -> None:
        source = rig.filled()
        with pytest.raises(SourceUnreachable) as caught:
            back_up(rig.engine, source, vault, **rig.unreachable(source))
        assert caught.value.fix
        assert _without(rig.secrets, caught.value)


def _opened(rig: Rig, source: Any, folder: Path) -> AbstractContextManager[Snapshot]:
    """A snapshot of the source's first unit, with scratch space below folder."""
    scratch = folder / "scratch"
    scratch.mkdir()
    unit = next(iter(rig.engine.plan(PlanJob(source=source))))
    listing = None if unit.listing is None else iter(unit.listing)
    job: dict[str, Any] = {"source": source, "listing": listing, "scratch": scratch}
    return rig.engine.open(Job(**job | rig.job(source)))


def _all_pieces(snapshot: Snapshot) -> Iterator[Any]:
    """Every buffer of every stream, in one thread."""
    pieces = chain.from_iterable(stream.read() for stream in snapshot.streams())
    return (piece for piece in pieces if not isinstance(piece, EndFrame))


def _tamper(path: Path, how: str) -> None:
    data = path.read_bytes()
    match how:
        case "flipped":
            middle = len(data) // 2
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        case "truncated":
            path.write_bytes(data[: len(data) // 2])
        case "missing":
            path.unlink()
        case "recompressed":  # the same content: only the hash at the very end tells
            plain = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
            again = zstandard.ZstdCompressor(level=1).compress(plain.read())
            assert again != data
            path.write_bytes(again)


def _without(secrets: Sequence[str], error: BaseException) -> bool:
    """Whether neither the error nor any error behind it holds a secret."""
    seen: list[str] = []
    link: BaseException | None = error
    while link is not None:
        seen += [str(link), repr(link)]
        link = link.__cause__ or link.__context__
    return not [s for s in secrets if any(s in text for text in seen)]
