"""Do one task of a planned restore."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import telemetry
from stepvault.catalog import Vault
from stepvault.env import FunctionEnv
from stepvault.records import parse
from stepvault.restore import RestoreLine, restore_task


@telemetry.observed
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Do one task of a planned restore."""
    line, vault = parse(RestoreLine, event), Vault(FunctionEnv.read().vault)
    counts = restore_task(vault, line, telemetry.deadline(context))
    return {
        "task": line.task.id,
        "stage": line.task.stage,
        "rows": counts.rows,
        "files": counts.files,
    }
