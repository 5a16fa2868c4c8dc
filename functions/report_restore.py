"""Write down what a restore has left out."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import telemetry
from stepvault.catalog import Vault
from stepvault.env import FunctionEnv
from stepvault.records import parse
from stepvault.restore import ReportRequest, report_restore


@telemetry.observed
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Fail with ``RestoreIncomplete`` if it is more than was asked for."""
    report = report_restore(Vault(FunctionEnv.read().vault), parse(ReportRequest, event))
    return {"restore_id": report.restore_id, "unrestored": len(report.unrestored)}
