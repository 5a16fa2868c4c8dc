"""Back up a whole source by Stepvault's own path: plan, units, seal. This is what is measured.

A program of its own, so that what the harness imports is not measured.
"""

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from stepvault import keys, storage
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.plan import (
    CollectRequest,
    RunRequest,
    collect_units,
    plan,
    plan_source,
    sources_to_plan,
)
from stepvault.records import Execution
from stepvault.seal import SealRequest, complain, seal
from stepvault.settings import Config


def run_id(source: str, turn: int) -> str:
    """Return the id of a turn's run."""
    execution = _execution(source, turn)
    return keys.run_id(execution.started, execution.name)


def _execution(source: str, turn: int) -> Execution:
    started = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=turn)
    return Execution(name=f"bench-{source}", started=started)


def main(job: dict[str, Any]) -> None:
    """Back up what ``harness.backup_command`` says."""
    vault, run = Vault(job["bucket"]), run_id(job["source"]["name"], job["turn"])
    config = Config.model_validate({"sources": [job["source"]]})
    plan(config, vault, RunRequest(execution=_execution(job["source"]["name"], job["turn"])))
    for task in sources_to_plan(vault, run):
        plan_source(vault, task)
    collect_units(vault, CollectRequest(run_id=run))
    units = vault.units(run) or []
    if job["parallel"] == 1 or len(units) == 1:
        for unit in units:
            back_up(unit, vault)
    else:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        # As warm functions, which have their client, but connections of their own.
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(job["parallel"], fork, initializer=storage.client().close) as pool:
            list(pool.map(back_up, units, [vault] * len(units)))
    summary, _ = seal(vault, SealRequest(run_id=run))
    if summary:
        complain(summary)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
