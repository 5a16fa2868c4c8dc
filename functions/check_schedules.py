"""Say which schedules have a run overdue."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import config, telemetry
from stepvault.catalog import Vault
from stepvault.env import PlanEnv
from stepvault.overdue import check_schedules


@telemetry.observed
def handler(_event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Check every schedule of the configuration and publish what is overdue."""
    env = PlanEnv.read()
    return telemetry.report_schedules(check_schedules(Vault(env.vault), config.load(env.config)))
