"""The Restore state machine.

::

    Plan restore → Before (a Map) → Data (a Map) → After (a Map) → Report

What must exist before rows come (schema), the rows, and what is quicker or only possible after
them (indexes, constraints). A stage starts when the one before is done; the first failure
stops the restore, because half a database is none. One that keeps going puts back all it can;
Report then names the rest, and fails if that is more than was asked for.
"""

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.bucket import Vault
from infra.functions import Functions
from infra.local import Platform
from infra.settings import Settings
from infra.tasks import EXECUTION, INPUT, Steps, machine

#: Tasks at a time of the stages that define things; most restores have one such task.
DEFINITIONS_AT_A_TIME = 3


class RestoreWorkflow(Construct):
    """Plan, then three stages one after another."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        settings: Settings,
        vault: Vault,
        functions: Functions,
        platform: Platform,
    ) -> None:
        super().__init__(scope, name)
        steps = Steps(self, platform)
        chain = sfn.Chain.start(
            steps.call(
                "Plan restore", functions.plan_restore, {"execution": EXECUTION, "input": INPUT}
            )
        )
        for stage, at_a_time in {
            "before": DEFINITIONS_AT_A_TIME,
            "data": settings.files_at_a_time,
            "after": DEFINITIONS_AT_A_TIME,
        }.items():
            chain = chain.next(
                steps.fan_out(
                    stage.title(),
                    stage,
                    vault,
                    at_a_time,
                    steps.call(f"Restore {stage}", functions.restore),
                )
            )
        chain = chain.next(steps.call("Report", functions.report_restore))
        self.machine = machine(
            self,
            "restore",
            chain,
            [functions.plan_restore, functions.restore, functions.report_restore],
            "restores/*",
            vault,
            settings,
        )
