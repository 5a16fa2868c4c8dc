"""Check a restore's target and write its tasks down."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import config, telemetry
from stepvault.catalog import Vault
from stepvault.env import PlanEnv
from stepvault.records import parse
from stepvault.restore import RestoreStart, plan_restore


@telemetry.observed
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Check a restore's target and write its tasks down."""
    env, start = PlanEnv.read(), parse(RestoreStart, event)
    return plan_restore(Vault(env.vault), config.load(env.config), start.input, start.restore_id)
