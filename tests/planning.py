"""A run's plan, made as the Backup state machine makes it."""

from typing import Any

from stepvault import plan
from stepvault.catalog import Vault
from stepvault.plan import CollectRequest, RunRequest, SourceToPlan
from stepvault.settings import Config


def whole_plan(config: Config, vault: Vault, request: RunRequest) -> dict[str, Any]:
    """Plan the run, each source of files by itself, and say where all its units are."""
    return collected(vault, plan.plan(config, vault, request))


def collected(vault: Vault, state: dict[str, Any]) -> dict[str, Any]:
    """Do what the state machine does between handing out and the Map of file batches."""
    for task in vault.lines(state["planning"]["key"], SourceToPlan) or []:
        plan.plan_source(vault, task)
    request = CollectRequest(run_id=state["run_id"], attempt=state["attempt"])
    return state | plan.collect_units(vault, request)
