"""The stack. It only wires."""

from aws_cdk import CfnOutput, Stack
from constructs import Construct

from infra import alarms
from infra.alarms import Alarms
from infra.backup_workflow import BackupWorkflow
from infra.bucket import Vault
from infra.dashboard import Dashboard
from infra.functions import Functions
from infra.local import Platform
from infra.restore_workflow import RestoreWorkflow
from infra.schedules import Schedules
from infra.settings import Settings


class StepvaultStack(Stack):
    """Everything Stepvault has in an account."""

    def __init__(self, scope: Construct, name: str, settings: Settings, platform: Platform) -> None:
        super().__init__(
            scope,
            name,
            description="Stepvault: serverless backup into your own bucket",
            synthesizer=platform.synthesizer(),
        )
        vault = Vault(self, "Vault", settings.vault)
        functions = Functions(self, "Functions", settings, vault, platform)
        topic = alarms.topic(self, settings.notifications)
        backup = BackupWorkflow(self, "Backup", settings, vault, functions, platform, topic)
        restore = RestoreWorkflow(self, "Restore", settings, vault, functions, platform)
        Schedules(self, "Schedules", settings.schedules, backup.machine, functions.check_schedules)
        Alarms(self, "Alarms", settings, backup.machine, topic)
        dashboard = Dashboard(self, "Dashboard", settings, backup.machine)

        CfnOutput(self, "VaultName", value=vault.bucket.bucket_name)
        CfnOutput(self, "BackupStateMachineArn", value=backup.machine.state_machine_arn)
        CfnOutput(self, "RestoreStateMachineArn", value=restore.machine.state_machine_arn)
        CfnOutput(self, "DashboardName", value=dashboard.name)
