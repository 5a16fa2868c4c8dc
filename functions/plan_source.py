"""Cut one source into units."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import telemetry
from stepvault.catalog import Vault
from stepvault.env import FunctionEnv
from stepvault.plan import SourceToPlan, plan_source
from stepvault.records import parse


@telemetry.observed
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Write the units down, and say how many there are."""
    return plan_source(Vault(FunctionEnv.read().vault), parse(SourceToPlan, event))
