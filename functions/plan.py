"""Turn the configuration into units and write the plan."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import config, telemetry
from stepvault.catalog import Vault
from stepvault.env import PlanEnv
from stepvault.plan import RunRequest, plan
from stepvault.records import parse


@telemetry.observed
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Turn the configuration into units and write the plan."""
    env = PlanEnv.read()
    request = parse(RunRequest, event)
    return plan(config.load(env.config), Vault(env.vault), request)
