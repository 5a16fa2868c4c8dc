"""What the two state machines share: steps that call a function, Maps that fan out over a list."""

from collections.abc import Mapping
from typing import Any

from aws_cdk import Duration, Stack
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from infra.bucket import Vault
from infra.functions import TIMEOUT
from infra.local import Platform
from infra.logs import log_group
from infra.roles import Allow, closed_role
from infra.settings import Settings

#: Our errors that a new attempt may get round: the subclasses of ``errors.Transient``. Those of a
#: server that is away are waited for longer: a Multi-AZ failover takes 60 to 120 seconds
#: (https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Concepts.MultiAZSingleStandby.html), a
#: restart longer.
SOURCE_AWAY = ["SourceBusy", "SourceUnreachable"]
TRANSIENT = ["SourceChanged", "StorageUnavailable"]
#: Lambda's own, before or instead of our code running. A function that died or ran out of
#: memory is not among them: it would die again.
LAMBDA_HICCUPS = [
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.TooManyRequestsException",
    "Lambda.ResourceNotReadyException",
    "Lambda.EC2ThrottledException",
    "Lambda.EFSMountConnectivityException",
    "Lambda.EFSMountTimeoutException",
]

EXECUTION = {
    "name": sfn.JsonPath.string_at("$$.Execution.Name"),
    "started": sfn.JsonPath.string_at("$$.Execution.StartTime"),
}
INPUT = sfn.JsonPath.object_at("$$.Execution.Input")


class Steps:
    """Makes the states of one machine."""

    def __init__(self, scope: Construct, platform: Platform) -> None:
        self._scope = scope
        self._platform = platform

    def call(
        self,
        name: str,
        function: lambda_.IFunction,
        payload: Mapping[str, Any] | None = None,
        *,
        keep_state: bool = False,
    ) -> sfn.TaskStateBase:
        """Call the function; its answer becomes the state, or is dropped with ``keep_state``.

        Without a payload the function gets the state itself.
        """
        step = tasks.LambdaInvoke(
            self._scope,
            name,
            lambda_function=function,
            payload=sfn.TaskInput.from_object(dict(payload)) if payload else None,
            payload_response_only=True,
            result_path=sfn.JsonPath.DISCARD if keep_state else None,
            # Lambda ends the function first, and says why; this one is for a Lambda that is mute.
            task_timeout=sfn.Timeout.duration(Duration.seconds(TIMEOUT + 30)),
            retry_on_service_exceptions=False,
        )
        return step.add_retry(
            errors=SOURCE_AWAY,
            interval=Duration.seconds(self._platform.away_after_seconds),
            backoff_rate=2,
            max_attempts=self._platform.away_attempts,
            max_delay=Duration.seconds(self._platform.away_after_seconds * 8),
            jitter_strategy=sfn.JitterType.NONE,  # the sum has to outlast a failover
        ).add_retry(
            errors=[*TRANSIENT, *LAMBDA_HICCUPS],
            interval=Duration.seconds(self._platform.retry_after_seconds),
            backoff_rate=2,
            max_attempts=3,
            max_delay=Duration.seconds(60),
            jitter_strategy=sfn.JitterType.FULL,
        )

    def fan_out(
        self,
        name: str,
        items: str,
        vault: Vault,
        at_a_time: int,
        work: sfn.IChainable,
        *,
        tolerate_failures: bool = False,
    ) -> sfn.Chain:
        """Do ``work`` for every line of the list that ``$.<items>`` names; keeps the state.

        With ``tolerate_failures`` every item is tried whatever happens to its siblings;
        without, the first failure stops the rest.
        """
        each = sfn.DistributedMap(
            self._scope,
            name,
            label=items,
            map_execution_type=sfn.StateMachineType.STANDARD,
            item_reader=sfn.S3JsonLItemReader(
                bucket=vault.bucket, key=sfn.JsonPath.string_at(f"$.{items}.key")
            ),
            max_concurrency=at_a_time,
            # With a Map's results in the state, a few thousand items would pass its 256 KiB.
            result_writer_v2=sfn.ResultWriterV2(bucket=vault.results, prefix="runs/map-results"),
            result_path=sfn.JsonPath.DISCARD,
            tolerated_failure_percentage=100 if tolerate_failures else None,
            tolerated_failure_count=None if tolerate_failures else 0,
        ).item_processor(work)
        return sfn.Chain.start(
            sfn.Choice(self._scope, f"Any {items}?")
            .when(sfn.Condition.number_greater_than(f"$.{items}.count", 0), each)
            .otherwise(sfn.Pass(self._scope, f"No {items}"))
            .afterwards()
        )


def machine(
    scope: Construct,
    name: str,
    start: sfn.IChainable,
    calls: list[lambda_.Function],
    reads: str,
    vault: Vault,
    settings: Settings,
    more: list[Allow] | None = None,
) -> sfn.StateMachine:
    """Make a state machine that may call those functions, read lists that match and fan out."""
    stack = Stack.of(scope)
    title = f"{stack.stack_name}-{name}"
    arn = f"arn:{stack.partition}:states:{stack.region}:{stack.account}"
    destination = log_group(
        scope, "Logs", f"/aws/vendedlogs/states/{title}", settings.log_retention_days
    )
    role = closed_role(
        scope,
        "Role",
        "states.amazonaws.com",
        [
            Allow(["lambda:InvokeFunction"], [f.function_arn for f in calls]),
            Allow(["s3:GetObject"], [vault.bucket.arn_for_objects(reads)], "the lists of all runs"),
            Allow(
                [
                    "s3:PutObject",
                    "s3:GetObject",
                    "s3:ListMultipartUploadParts",
                    "s3:AbortMultipartUpload",
                ],
                [vault.results.arn_for_objects("runs/map-results/*")],
                "the folder of the Maps' own results",
            ),
            Allow(["kms:Decrypt", "kms:GenerateDataKey"], [vault.key.key_arn]),
            Allow(["states:StartExecution"], [f"{arn}:stateMachine:{title}"]),
            Allow(
                ["states:DescribeExecution", "states:StopExecution", "states:RedriveExecution"],
                [f"{arn}:execution:{title}/*"],
                "the children of the machine's own Maps",
            ),
            Allow(
                [
                    "logs:CreateLogDelivery",
                    "logs:GetLogDelivery",
                    "logs:UpdateLogDelivery",
                    "logs:DeleteLogDelivery",
                    "logs:ListLogDeliveries",
                    "logs:PutResourcePolicy",
                    "logs:DescribeResourcePolicies",
                    "logs:DescribeLogGroups",
                    "xray:PutTraceSegments",
                    "xray:PutTelemetryRecords",
                    "xray:GetSamplingRules",
                    "xray:GetSamplingTargets",
                ],
                ["*"],
                "log delivery and X-Ray have no resources to name",
            ),
            *(more or []),
        ],
    )
    made = sfn.StateMachine(
        scope,
        "Machine",
        state_machine_name=title,
        definition_body=sfn.DefinitionBody.from_chainable(start),
        role=role,
        tracing_enabled=True,
        timeout=Duration.hours(settings.max_hours),
        logs=sfn.LogOptions(destination=destination, level=sfn.LogLevel.ALL),
    )
    # CDK's own rights for the Maps, which our closed role has already and does not take.
    made.node.try_remove_child("DistributedMapPolicy")
    return made
