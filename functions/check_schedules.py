"""Say which schedules have a run overdue."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import config, telemetry
from stepvault.catalog import Vault
from stepvault.env import PlanEnv
from stepvault.overdue import CheckRequest, check_schedules
from stepvault.records import parse


@telemetry.observed
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Check every schedule of the configuration and publish what is overdue."""
    env, request = PlanEnv.read(), parse(CheckRequest, event)
    answers = check_schedules(Vault(env.vault), config.load(env.config), request.now)
    return telemetry.report_schedules(answers)
