"""Bring the planned sources' units together."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import telemetry
from stepvault.catalog import Vault
from stepvault.env import FunctionEnv
from stepvault.plan import CollectRequest, collect_units
from stepvault.records import parse


@telemetry.observed
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Return where the list of the units still to be done is."""
    return collect_units(Vault(FunctionEnv.read().vault), parse(CollectRequest, event))
