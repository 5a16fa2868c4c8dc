"""Random runs of real sources through an S3 that fails at random.

Whatever happens, a run that says it succeeded holds what the source held, one that failed says so
for the source, every error is ours, and no upload stays open.
"""

import os
import random
import sqlite3
import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from devtools.faults import Proxy, random_faults
from stepvault import multipart, plan
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.errors import RunNotFound, StepvaultError, Transient
from stepvault.plan import RunInput, RunRequest
from stepvault.records import Execution, SourceResult, Unit
from stepvault.restore import RestoreRequest, restore_here
from stepvault.seal import SealRequest, seal
from stepvault.settings import Config, TargetSettings
from stepvault.verify import verify
from tests.core.test_plan_and_seal import units_of

#: STEPVAULT_TRIALS=500 looks longer.
TRIALS = int(os.environ.get("STEPVAULT_TRIALS", "16"))
#: Step Functions tries a state three more times.
ATTEMPTS = 4


class Trial:
    """One run, its sources and what becomes of it."""

    def __init__(self, seed: int, vault: Vault, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.vault = vault
        self.folder = folder
        self.errors: list[BaseException] = []
        self.tree = folder / "tree"
        self.tree.mkdir()
        for number in range(self.rng.randrange(1, 12)):
            size = self.rng.choice([0, 9, 70_000, 6 << 20 if number == 0 else 1000])
            (self.tree / f"{number}.bin").write_bytes(self.rng.randbytes(size))
        self.database = folder / "app.db"
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute("CREATE TABLE t (body BLOB)")
            size = self.rng.choice([10, 100_000, 7 << 20])
            connection.execute("INSERT INTO t VALUES (?)", [self.rng.randbytes(size)])
            connection.commit()
        self.config = Config.model_validate(
            {
                "sources": [
                    {"name": "tree", "engine": "files", "path": str(self.tree)},
                    {"name": "app", "engine": "sqlite", "path": str(self.database)},
                ],
                "limits": {"batch_files": 4},
            }
        )

    def run(self) -> list[SourceResult]:
        """Do what the state machine does; the results are empty if planning or sealing failed."""
        started = datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=self.rng.randrange(10**6))
        request = RunRequest(
            execution=Execution(name="trial", started=started), input=RunInput(sources=[])
        )
        state = self.attempts(lambda: plan.plan(self.config, self.vault, request))
        if state is None:
            return []
        self.run_id = str(state["run_id"])
        tasks = self.attempts(lambda: plan.sources_to_plan(self.vault, self.run_id))
        for task in tasks or []:
            self.attempts(lambda task=task: plan.plan_source(self.vault, task))  # type: ignore[misc]
        collected = self.attempts(
            lambda: plan.collect_units(self.vault, plan.CollectRequest(run_id=self.run_id))
        )
        if collected is None:
            return []
        state |= collected
        units = self.attempts(
            lambda: [u for kind in plan.KINDS for u in units_of(self.vault, state, kind)]
        )
        invocations = [threading.Thread(target=self.store, args=(unit,)) for unit in units or []]
        for unit in units or []:
            if self.rng.random() < 0.3:  # a second invocation of the same unit
                invocations.append(threading.Thread(target=self.store, args=(unit,)))
        for invocation in invocations:
            invocation.start()
        for invocation in invocations:
            invocation.join()
        sealed = self.attempts(lambda: seal(self.vault, SealRequest(run_id=self.run_id)))
        return [] if sealed is None or sealed[0] is None else sealed[0].sources

    def store(self, unit: Unit) -> None:
        self.attempts(lambda: back_up(unit, self.vault))

    def attempts[T](self, work: Callable[[], T]) -> T | None:
        """Try as Step Functions does; remember what went wrong."""
        for _ in range(ATTEMPTS):
            try:
                return work()
            except Transient as error:
                self.errors.append(error)
            except BaseException as error:
                self.errors.append(error)
                return None
        return None

    def check(self, results: list[SourceResult]) -> None:
        strange = [e for e in self.errors if not isinstance(e, StepvaultError)]
        assert strange == []
        for result in results:
            if result.status != "sealed":
                assert result.failures
                assert self.errors
                with pytest.raises(RunNotFound):
                    self.vault.manifest(result.source, self.run_id)
                continue
            assert verify(self.vault, self.vault.manifest(result.source, self.run_id)) == []
            self.compare(result.source)
        assert not results or self.vault.open_uploads("") == []

    def compare(self, source: str) -> None:
        """What is restored is what was there."""
        back = self.folder / f"back-{source}"
        target = TargetSettings(name="back", path=str(back))
        restore_here(self.vault, RestoreRequest(source=source, run_id=self.run_id, target=target))
        if source == "tree":
            assert contents(back) == contents(self.tree)
        else:
            (restored,) = [path for path in [back, *back.rglob("*")] if path.is_file()]
            assert rows(restored) == rows(self.database)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rows(database: Path) -> list[tuple[bytes]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT body FROM t").fetchall()


@pytest.mark.timeout(600)
def test_no_trial_ends_in_a_false_success_a_loss_or_an_open_upload(
    vault: Vault, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "FIRST_PART", 5 << 20)
    pauses = SimpleNamespace(sleep=lambda seconds: None)  # between botocore's attempts
    monkeypatch.setattr("botocore.endpoint.time", pauses)
    sealed = failed = 0
    for seed in range(TRIALS):
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        trial = Trial(seed, vault, folder)
        proxy.choose = random_faults(seed, rate=random.Random(seed).choice([0.05, 0.2, 0.4]))
        results = trial.run()
        proxy.choose = lambda _: None
        trial.check(results)
        sealed += sum(result.status == "sealed" for result in results)
        failed += sum(result.status == "failed" for result in results)
        vault.delete([entry.key for entry in vault.entries("")])
    assert sum(fault is not None for _, fault in proxy.log) > 5 * TRIALS
    assert sealed > TRIALS / 2
    assert failed
