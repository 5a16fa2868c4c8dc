"""A restore in this process: what stops it."""

import threading
from collections.abc import Iterator

import pytest

from stepvault import engines, keys, plan
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.deadline import Deadline
from stepvault.engines.base import Counts, RestoreJob
from stepvault.errors import OutOfTime, SourceUnreachable, TargetNotEmpty
from stepvault.records import RestoreOptions, RestoreTask
from stepvault.restore import RestoreLine, RestoreRequest, restore_here, restore_task
from stepvault.seal import SealRequest, seal
from stepvault.settings import TargetSettings
from tests.core.streams import RUN, Scripted, ScriptedEngine, unit

TARGET = TargetSettings(name="back", path="/nowhere")
TASKS = [RestoreTask(stage="data", id=name) for name in ("fails", "goes on", "waits")]


class Restoring(ScriptedEngine):
    """Restores by doing what the test says."""

    told: threading.Event
    ended: dict[str, str]
    released: threading.Event

    def plan_restore(self, job: RestoreJob) -> list[RestoreTask]:
        return TASKS

    def restore(self, job: RestoreJob, task: RestoreTask) -> Counts:
        if task.id == "fails":
            assert self.told.wait(20)
            raise TargetNotEmpty("there is something")
        if task.id == "hangs":
            self.released.wait(20)
            return Counts()
        try:
            for _ in range(2000):
                job.progress("a.zst", 1)
                self.told.set()
                self.released.wait(0.01)
        except OutOfTime as error:
            self.ended[task.id] = str(error)
            raise
        self.ended[task.id] = "done"
        return Counts()


@pytest.fixture
def engine(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> Iterator[Restoring]:
    """An engine with a sealed backup."""
    made = Restoring([Scripted("a.zst", lambda: iter([b"rows"]))])
    made.told, made.ended, made.released = threading.Event(), {}, threading.Event()
    monkeypatch.setattr(engines, "find", lambda name: made)
    plan.hand_out(vault, RUN, [unit()], attempt=0)
    vault.put_lines(keys.plan(RUN, "files"), [])
    back_up(unit(), vault)
    seal(vault, SealRequest(run_id=RUN))
    yield made
    made.released.set()


def test_a_task_that_fails_stops_the_others_before_their_end(
    vault: Vault, engine: Restoring
) -> None:
    with pytest.raises(TargetNotEmpty):
        restore_here(vault, RestoreRequest(source="shop", target=TARGET))
    assert "done" not in engine.ended.values()
    assert engine.ended


def test_a_task_whose_target_falls_silent_is_given_up_in_time(
    vault: Vault, engine: Restoring
) -> None:
    line = RestoreLine(
        restore_id=RUN,
        source="shop",
        run_id=RUN,
        target=TARGET,
        options=RestoreOptions(),
        task=RestoreTask(stage="data", id="hangs"),
    )
    with pytest.raises(SourceUnreachable, match="data/hangs got no answer from the target"):
        restore_task(vault, line, Deadline(1, margin=0.2))
