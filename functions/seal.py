"""Write the manifests of complete sources, then fail the run if any source is missing."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from stepvault import telemetry
from stepvault.catalog import Vault
from stepvault.env import FunctionEnv
from stepvault.records import parse
from stepvault.seal import SealRequest, complain, seal


@telemetry.observed
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Write the manifests of complete sources, then fail the run if any source is missing."""
    summary, state = seal(Vault(FunctionEnv.read().vault), parse(SealRequest, event))
    if summary is not None:
        telemetry.report_run(summary)
        complain(summary)
    return state
