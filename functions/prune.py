"""Remove the backups that retention no longer keeps."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import config, telemetry
from stepvault.catalog import Vault
from stepvault.env import PlanEnv
from stepvault.prune import PruneRequest, prune
from stepvault.records import parse


@telemetry.observed
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Remove the backups that retention no longer keeps."""
    env, request = PlanEnv.read(), parse(PruneRequest, event)
    pruned = prune(Vault(env.vault), config.load(env.config), dry_run=request.dry_run)
    return {"run_id": request.run_id, "pruned": [p.model_dump(exclude_none=True) for p in pruned]}
