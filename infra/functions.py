"""The Lambda functions: what each runs, with how much memory, and what it may touch."""

from dataclasses import dataclass, field
from pathlib import Path

from aws_cdk import Acknowledgment, Duration, RemovalPolicy, Size, Stack, Validations
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra import bundles
from infra.access import Access
from infra.bucket import Vault
from infra.local import Platform
from infra.logs import log_group
from infra.network import Network
from infra.roles import Allow, closed_role
from infra.settings import Settings

#: Seconds; what Lambda allows at most.
TIMEOUT = 900
#: MB for functions that move no data; plan holds the list of a tree of files.
PLAN_MEMORY = 1769
RECORDS_MEMORY = 512

#: How many sources a role names one by one: its policy has 10,240 characters at most.
NAMED_SOURCES = 12

ARCHITECTURES = {"arm64": lambda_.Architecture.ARM_64, "x86_64": lambda_.Architecture.X86_64}


@dataclass(frozen=True)
class Spec:
    """One function."""

    name: str
    file: str
    memory: int
    grants: list[Allow]
    scratch: int = 512
    """MB of scratch space."""
    config: bool = False
    """Reads the bundled configuration."""
    sources: bool = False
    """Reaches sources or targets: runs in the network."""
    writes: bool = False
    """Writes to the file system in the network."""
    layers: list[str] = field(default_factory=lambda: ["core", "deps"])


class Functions(Construct):
    """All functions of the stack."""

    def __init__(
        self, scope: Construct, name: str, settings: Settings, vault: Vault, platform: Platform
    ) -> None:
        super().__init__(scope, name)
        self._settings = settings
        self._vault = vault
        self._platform = platform
        self._architecture = platform.architecture(settings)
        self._network = None if platform.local else Network(self, "Network", settings.network)
        self._code = lambda_.Code.from_asset(str(bundles.functions(settings.document)))
        self._layers: dict[str, lambda_.LayerVersion] = {}

        postgres = ["postgres_client"] if "postgres" in settings.engines else []
        access = Access(Stack.of(self))
        targets = access.credentials(settings.targets)

        self.plan = self._function(
            Spec(
                "plan",
                "plan",
                RECORDS_MEMORY,
                [
                    *vault.read("backups/*/receipts/*", "runs/*/request.json", "runs/*/plan/*"),
                    *vault.write("runs/*/request.json", "runs/*/plan/*.jsonl"),
                ],
                config=True,
            )
        )
        self.plan_source = self._function(
            Spec(
                "plan_source",
                "plan_source",
                PLAN_MEMORY,
                [
                    *vault.read("backups/*", "runs/*/plan/*"),
                    *vault.write("runs/*/plan/*/*"),
                    *access.buckets(settings.sources),
                ],
                scratch=settings.scratch["files"],
                sources=True,
            )
        )
        self.collect_units = self._function(
            Spec(
                "collect_units",
                "collect_units",
                RECORDS_MEMORY,
                [
                    *vault.read("backups/*/receipts/*", "runs/*/plan/*"),
                    *vault.write("runs/*/plan/files*.jsonl"),
                ],
            )
        )
        self.back_up = {engine: self._back_up(engine, postgres) for engine in settings.engines}
        self.seal = self._function(
            Spec(
                "seal",
                "seal",
                RECORDS_MEMORY,
                [
                    # Data is only listed.
                    *vault.read(
                        "backups/*/receipts/*",
                        "backups/*/manifest.json",
                        "runs/*/plan/*",
                        "runs/*/failures/*",
                        "runs/*/summary.json",
                    ),
                    *vault.write("backups/*/manifest.json", "runs/*/plan/*", "runs/*/summary.json"),
                    *vault.abort("backups/*/data/*"),
                ],
            )
        )
        self.prune = self._function(
            Spec(
                "prune",
                "prune",
                RECORDS_MEMORY,
                [
                    *vault.read(
                        "backups/*/receipts/*",
                        "backups/*/manifest.json",
                        "runs/*/plan/*",
                        "runs/*/summary.json",
                    ),
                    *vault.delete("backups/*"),
                ],
                config=True,
            )
        )
        self.check_schedules = self._function(
            Spec(
                "check_schedules",
                "check_schedules",
                RECORDS_MEMORY,
                [*vault.read("runs/*/summary.json", "state/*"), *vault.write("state/*")],
                config=True,
            )
        )
        self.plan_restore = self._function(
            Spec(
                "plan_restore",
                "plan_restore",
                PLAN_MEMORY,
                [*vault.read("backups/*"), *vault.write("restores/*"), *targets],
                config=True,
                sources=True,
                writes=True,  # it makes the source's folder in the target
                layers=["core", "deps", *postgres],
            )
        )
        self.restore = self._function(
            Spec(
                "restore",
                "restore",
                max(settings.memory[engine] for engine in settings.engines),
                [
                    *vault.read("backups/*", "restores/*"),
                    *vault.write("restores/*/unrestored/*"),
                    *targets,
                ],
                scratch=max(settings.scratch[engine] for engine in settings.engines),
                sources=True,
                writes=True,
                layers=["core", "deps", *postgres],
            )
        )

        self.report_restore = self._function(
            Spec(
                "report_restore",
                "report_restore",
                RECORDS_MEMORY,
                [*vault.read("restores/*"), *vault.write("restores/*/report.json")],
            )
        )

    def _back_up(self, engine: str, postgres: list[str]) -> lambda_.Function:
        """Make the function that backs up sources of the engine, and may reach only those."""
        access = Access(Stack.of(self))
        sources = [s for s in self._settings.sources if s.engine == engine]
        names = [s.name for s in sources] if len(sources) <= NAMED_SOURCES else ["*"]
        data = [f"backups/{name}/*/data/*" for name in names]
        receipts = [f"backups/{name}/*/receipts/*" for name in names]
        failures = [f"runs/*/failures/{name}/*" for name in names]
        # Of data, only the next backup of files reads something: the index of the one before.
        earlier = [*data, "runs/*/plan/*"] if engine == "files" else []
        return self._function(
            Spec(
                f"back_up_{engine}",
                "back_up",
                self._settings.memory[engine],
                [
                    *self._vault.read(*receipts, *earlier),
                    *self._vault.write(*data, *receipts, *failures),
                    *self._vault.abort(*data),
                    *access.credentials(sources),
                    *access.buckets(sources),
                ],
                scratch=self._settings.scratch[engine],
                sources=True,
                # A reader of a live SQLite database takes locks, which are writes on EFS.
                writes=engine == "sqlite",
                layers=["core", "deps", *(postgres if engine == "postgres" else [])],
            )
        )

    def _function(self, spec: Spec) -> lambda_.Function:
        stack = Stack.of(self)
        title = "".join(word.title() for word in spec.name.split("_"))
        log_name = f"/aws/lambda/{stack.stack_name}-{spec.name}"
        logs = log_group(self, f"{title}Logs", log_name, self._settings.log_retention_days)
        in_network = self._network if spec.sources else None
        role = closed_role(
            self,
            f"{title}Role",
            "lambda.amazonaws.com",
            [
                Allow(
                    ["logs:CreateLogStream", "logs:PutLogEvents"],
                    [logs.log_group_arn],
                    "the streams of the function's own log group",
                ),
                Allow(
                    ["xray:PutTraceSegments", "xray:PutTelemetryRecords"],
                    ["*"],
                    "X-Ray has no resources to name",
                ),
                *spec.grants,
                *(in_network.grants(writes=spec.writes) if in_network else []),
            ],
        )
        folders = [bundles.layer(layer, self._architecture) for layer in spec.layers]
        function = lambda_.Function(
            self,
            title,
            function_name=f"{stack.stack_name}-{spec.name}",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=ARCHITECTURES[self._architecture],
            handler=f"{spec.file}.handler",
            code=self._code,
            layers=None if self._platform.local else self._layer_versions(spec.layers, folders),
            memory_size=spec.memory,
            # What Lambda gives to all is left unsaid.
            ephemeral_storage_size=Size.mebibytes(spec.scratch) if spec.scratch > 512 else None,
            timeout=Duration.seconds(TIMEOUT),
            role=role,
            log_group=logs,
            tracing=lambda_.Tracing.ACTIVE,
            environment=self._environment(spec, folders),
        )
        if in_network:
            in_network.attach(function)
        Validations.of(function).acknowledge(
            Acknowledgment(
                id="AwsSolutions-L1",
                reason="3.13 is the version that the wheels of the layers are locked for",
            )
        )
        return function

    def _environment(self, spec: Spec, folders: list[Path]) -> dict[str, str]:
        config = {"STEPVAULT_CONFIG": bundles.CONFIG_NAME} if spec.config else {}
        return {
            "STEPVAULT_VAULT": self._vault.bucket.bucket_name,
            "STEPVAULT_STACK": Stack.of(self).stack_name,
            "POWERTOOLS_SERVICE_NAME": "stepvault",
            "POWERTOOLS_METRICS_NAMESPACE": "Stepvault",
            "POWERTOOLS_LOG_LEVEL": "INFO",
            **config,
            **self._platform.environment(folders),
        }

    def _layer_versions(self, names: list[str], folders: list[Path]) -> list[lambda_.ILayerVersion]:
        for name, folder in zip(names, folders, strict=True):
            if name not in self._layers:
                self._layers[name] = lambda_.LayerVersion(
                    self,
                    "".join(word.title() for word in name.split("_")) + "Layer",
                    code=lambda_.Code.from_asset(str(bundles.core() if name == "core" else folder)),
                    compatible_runtimes=[lambda_.Runtime.PYTHON_3_13],
                    compatible_architectures=[ARCHITECTURES[self._architecture]],
                    removal_policy=RemovalPolicy.DESTROY,
                )
        return [self._layers[name] for name in names]
