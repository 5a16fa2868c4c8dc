"""Back up one unit: a database, or a batch of files."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import telemetry
from stepvault.backup import back_up
from stepvault.catalog import Vault
from stepvault.env import FunctionEnv
from stepvault.records import Unit, parse


@telemetry.observed
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Back up one unit: a database, or a batch of files."""
    unit, vault = parse(Unit, event), Vault(FunctionEnv.read().vault)
    receipt = back_up(unit, vault, telemetry.deadline(context), telemetry.governor(unit))
    return telemetry.report_unit(receipt)
