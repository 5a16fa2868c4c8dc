"""The Backup state machine.

::

    Plan → Fan out ─┬ Databases (a Map) ──────────────────────────────────────────────┬→ Seal → Sealed? → Prune → Notify
             ↑      └ Sources to plan (a Map) → Collect units → File batches (a Map) ─┘            │
             └──────────────────────────────────── incomplete ─────────────────────────────────────┘

Each source of files is planned by a function of its own: a huge or slow tree costs no other source
its backup.

A failed unit stops none of its siblings: the Maps tolerate every failure, and ``seal``, which
looks at the receipts in the vault, fails the execution. A redrive then starts at Seal with the
same input. Seal sees that the redrive count passed the attempt it was given, answers with the
list of units still missing, and the machine fans out once more over those.
"""

from aws_cdk import Duration, Stack
from aws_cdk import aws_sns as sns
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from infra.bucket import Vault
from infra.functions import Functions
from infra.local import Platform
from infra.roles import Allow
from infra.settings import Settings
from infra.tasks import EXECUTION, INPUT, Steps, machine


class BackupWorkflow(Construct):
    """Plan, fan out, seal, prune, tell."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        settings: Settings,
        vault: Vault,
        functions: Functions,
        platform: Platform,
        topic: sns.ITopic | None,
    ) -> None:
        super().__init__(scope, name)
        steps = Steps(self, platform)
        fan_out = sfn.Parallel(self, "Fan out", result_path=sfn.JsonPath.DISCARD)
        if settings.database_engines:
            fan_out.branch(
                steps.fan_out(
                    "Databases",
                    "databases",
                    vault,
                    settings.databases_at_a_time,
                    self._by_engine(steps, settings, functions),
                    tolerate_failures=True,
                )
            )
        has_files = "files" in settings.engines
        if has_files:
            fan_out.branch(
                steps.fan_out(
                    "Sources to plan",
                    "planning",
                    vault,
                    settings.files_at_a_time,
                    steps.call("Plan source", functions.plan_source),
                    tolerate_failures=True,
                )
                .next(steps.call("Collect units", functions.collect_units))
                .next(
                    steps.fan_out(
                        "File batches",
                        "files",
                        vault,
                        settings.files_at_a_time,
                        steps.call("Back up files", functions.back_up["files"]),
                        tolerate_failures=True,
                    )
                )
            )
        plan = steps.call("Plan", functions.plan, {"execution": EXECUTION, "input": INPUT})
        seal = steps.call(
            "Seal",
            functions.seal,
            {
                "run_id": sfn.JsonPath.string_at("$.run_id"),
                "attempt": sfn.JsonPath.number_at("$.attempt"),
                "redrive_count": sfn.JsonPath.number_at("$$.Execution.RedriveCount"),
                "execution": EXECUTION,
                "input": INPUT,
            },
        )
        prune = steps.call(
            "Prune",
            functions.prune,
            {"run_id": sfn.JsonPath.string_at("$.run_id"), "dry_run": False},
            keep_state=True,
        )
        end = prune.next(self._notify(topic)) if topic else prune
        sealed = (
            sfn.Choice(self, "Sealed?")
            .when(sfn.Condition.string_equals("$.status", "incomplete"), fan_out)
            .otherwise(end)
        )
        self.machine = machine(
            self,
            "backup",
            plan.next(fan_out).next(seal).next(sealed),
            [
                functions.plan,
                *([functions.plan_source, functions.collect_units] if has_files else []),
                *functions.back_up.values(),
                functions.seal,
                functions.prune,
            ],
            "runs/*",
            vault,
            settings,
            self._may_notify(topic, settings) if topic else [],
        )

    def _may_notify(self, topic: sns.ITopic, settings: Settings) -> list[Allow]:
        """Publish to the topic; one of the user's may have a key of its own."""
        grants = [Allow(["sns:Publish"], [topic.topic_arn])]
        if settings.notifications.topic_arn:
            stack = Stack.of(self)
            grants.append(
                Allow(
                    ["kms:Decrypt", "kms:GenerateDataKey"],
                    [f"arn:{stack.partition}:kms:*:*:key/*"],
                    "the topic's ARN does not name its key; only through SNS",
                    {"StringLike": {"kms:ViaService": f"sns.*.{stack.url_suffix}"}},
                )
            )
        return grants

    def _by_engine(self, steps: Steps, settings: Settings, functions: Functions) -> sfn.IChainable:
        """Each engine has a function with the memory it needs."""
        choice = sfn.Choice(self, "Which engine?")
        for engine in settings.database_engines:
            choice.when(
                sfn.Condition.string_equals("$.source.engine", engine),
                steps.call(f"Back up {engine}", functions.back_up[engine]),
            )
        return choice.otherwise(
            sfn.Fail(
                self,
                "Unknown engine",
                error="SourceUnsupported",
                cause="The plan names an engine that this deployment has no function for: "
                "deploy again with the present configuration, or start a new run",
            )
        )

    def _notify(self, topic: sns.ITopic) -> sfn.IChainable:
        """Tell that the run is sealed; failures are told by the alarm.

        A backup is good whether or not the message arrives: what SNS refuses is retried, and then
        only noted in the execution's history.
        """
        publish = tasks.SnsPublish(
            self,
            "Notify",
            topic=topic,
            subject=f"{Stack.of(self).stack_name}: backup sealed",
            message=sfn.TaskInput.from_text(
                sfn.JsonPath.format("Run {} is sealed.", sfn.JsonPath.string_at("$.run_id"))
            ),
            result_path=sfn.JsonPath.DISCARD,
        )
        publish.add_retry(
            interval=Duration.seconds(2),
            backoff_rate=2,
            max_attempts=4,
            jitter_strategy=sfn.JitterType.FULL,
        )
        return publish.add_catch(sfn.Pass(self, "Nobody was told"), result_path="$.notify_error")
