"""The functions: what they run, and what they may touch."""

import json

import pytest

from infra.functions import TIMEOUT
from stepvault import env, keys
from tests.infra.synth import ROOT, Template, listed

RUN = "20260101T030000Z-nightly"
BACK_UP = ["back_up_postgres", "back_up_mysql", "back_up_sqlite", "back_up_files"]


def test_every_engine_in_use_has_a_function_of_its_size(everything: Template) -> None:
    memory = {n: f["MemorySize"] for n, f in everything.functions.items()}

    assert [memory[n] for n in BACK_UP] == [4000, 3000, 1800, 1900]
    assert memory["restore"] == 4000
    assert set(memory) == {
        *BACK_UP,
        "plan",
        "plan_source",
        "collect_units",
        "seal",
        "prune",
        "report_restore",
        "plan_restore",
        "restore",
        "check_schedules",
    }


def test_engines_not_in_use_have_none(everything: Template, minimal: Template) -> None:
    assert set(everything.functions) - set(minimal.functions) == {*BACK_UP} - {"back_up_files"}


def test_every_handler_is_a_file_of_the_functions_folder(everything: Template) -> None:
    for function in everything.functions.values():
        file, name = function["Handler"].split(".")
        assert name == "handler"
        assert (ROOT / "functions" / f"{file}.py").is_file()


def test_environments_are_what_the_runtime_reads(everything: Template) -> None:
    bucket = everything.vault_id
    for name, function in everything.functions.items():
        file = function["Handler"].split(".")[0]
        variables = function["Environment"]["Variables"]
        ours = {k for k in variables if k.startswith("STEPVAULT_")}

        assert ours == set(env.FUNCTIONS[file].variables().values()), name
        assert variables["STEPVAULT_VAULT"] == f"<{bucket}>"
        assert variables["POWERTOOLS_SERVICE_NAME"] == "stepvault"
        assert variables["POWERTOOLS_METRICS_NAMESPACE"] == "Stepvault"
    assert {f["Handler"].split(".")[0] for f in everything.functions.values()} == set(env.FUNCTIONS)


def test_functions_have_the_time_the_tracing_and_the_processor_they_should(
    everything: Template,
) -> None:
    logs = everything.of_type("AWS::Logs::LogGroup")
    for function in everything.functions.values():
        assert function["Runtime"] == "python3.13"
        assert function["Architectures"] == ["arm64"]
        assert function["Timeout"] == TIMEOUT == 900
        assert function["TracingConfig"] == {"Mode": "Active"}
        group = function["LoggingConfig"]["LogGroup"].strip("<>")
        assert logs[group]["RetentionInDays"] == 30


def test_only_what_needs_the_postgres_client_carries_it(everything: Template) -> None:
    clients = {
        name
        for name, function in everything.functions.items()
        if any("PostgresClient" in layer for layer in function["Layers"])
    }

    assert clients == {"back_up_postgres", "plan_restore", "restore"}


def test_what_touches_sources_runs_in_the_network(everything: Template) -> None:
    inside = {n for n, f in everything.functions.items() if "VpcConfig" in f}
    mounted = {n for n, f in everything.functions.items() if "FileSystemConfigs" in f}
    (group,) = everything.of_type("AWS::EC2::SecurityGroup")

    assert inside == mounted == {*BACK_UP, "plan_source", "plan_restore", "restore"}
    function = everything.functions["back_up_sqlite"]
    assert function["VpcConfig"] == {
        "SubnetIds": ["subnet-0123456789abcdef0", "subnet-0fedcba9876543210"],
        "SecurityGroupIds": [f"<{group}.GroupId>"],
    }
    assert function["FileSystemConfigs"][0]["LocalMountPath"] == "/mnt/efs"


def test_without_a_network_there_is_none(minimal: Template) -> None:
    assert not any("VpcConfig" in f for f in minimal.functions.values())
    assert not minimal.of_type("AWS::EC2::SecurityGroup")


# --- rights ---------------------------------------------------------------------------------


def test_no_function_but_prune_may_delete(everything: Template) -> None:
    deleters = {
        name
        for name, function in everything.functions.items()
        for statement in everything.statements(function["Role"])
        for action in listed(statement["Action"])
        if action.startswith(("s3:Delete", "s3:*", "s3:Put*Lifecycle", "s3:Bypass"))
    }

    assert deleters == {"prune"}


def test_prune_hides_objects_and_removes_no_version(everything: Template) -> None:
    actions = {
        action
        for statement in everything.statements(everything.functions["prune"]["Role"])
        for action in listed(statement["Action"])
        if action.startswith("s3:")
    }

    assert actions == {"s3:ListBucket", "s3:GetObject", "s3:DeleteObject"}


def test_no_action_is_a_wildcard(everything: Template) -> None:
    for role in everything.roles:
        for statement in everything.statements(role):
            assert not [a for a in listed(statement["Action"]) if "*" in a]


def test_only_what_has_no_resources_to_name_may_touch_all(everything: Template) -> None:
    services = {
        action.split(":")[0]
        for role in everything.roles
        for statement in everything.statements(role)
        if "*" in listed(statement["Resource"])
        for action in listed(statement["Action"])
    }

    assert services == {"xray", "ec2", "logs"}


@pytest.mark.parametrize(
    ("key", "writers"),
    [
        (keys.manifest("shop", RUN), {"seal"}),
        (keys.summary(RUN), {"seal"}),
        (keys.request(RUN), {"plan"}),
        (keys.retry_plan(RUN, "databases", 1), {"plan", "seal"}),
        (keys.retry_plan(RUN, "files", 1), {"plan", "collect_units", "seal"}),
        (keys.source_units(RUN, "uploads"), {"plan", "plan_source", "seal"}),
        (keys.plan(RUN, "databases"), {"plan", "seal"}),
        (keys.listing(RUN, "uploads", "0001"), {"seal", "plan_source"}),
        (keys.data("shop", RUN, "toc.dat"), {"back_up_postgres"}),
        (keys.data("uploads", RUN, "0000.tar.zst"), {"back_up_files"}),
        (keys.data("stranger", RUN, "x"), set()),
        (keys.receipt("shop", RUN, "0000"), {"back_up_postgres"}),
        (keys.receipt("tickets", RUN, "0000"), {"back_up_sqlite"}),
        (keys.failure(RUN, "blog", "0000"), {"back_up_mysql"}),
        (keys.restore_plan(RUN, "data"), {"plan_restore"}),
        (keys.SCHEDULES, {"check_schedules"}),
        (keys.unrestored(RUN, "data", "0001"), {"plan_restore", "restore"}),
        (keys.restore_report(RUN), {"plan_restore", "report_restore"}),
        ("anything/else", set()),
    ],
)
def test_who_may_write_which_key(everything: Template, key: str, writers: set[str]) -> None:
    bucket = everything.vault_id
    found = {
        name
        for name, function in everything.functions.items()
        if everything.may(function["Role"], "s3:PutObject", f"<{bucket}.Arn>/{key}")
    }

    assert found == writers


@pytest.mark.parametrize(
    ("key", "readers"),
    [
        (keys.data("shop", RUN, "toc.dat"), {"plan_source", "plan_restore", "restore"}),
        (keys.data("uploads", RUN, "0.tar.zst"), {"back_up_files", "plan_source", "plan_restore", "restore"}),
        (keys.manifest("shop", RUN), {"seal", "prune", "plan_source", "plan_restore", "restore"}),
        (keys.receipt("shop", RUN, "0000"), {"back_up_postgres", "seal", "prune", "plan", "plan_source", "collect_units", "plan_restore", "restore"}),
        (keys.failure(RUN, "shop", "0000"), {"seal"}),
        (keys.summary(RUN), {"prune", "seal", "check_schedules"}),
        (keys.listing(RUN, "uploads", "0001"), {"plan", "plan_source", "collect_units", "seal", "prune", "back_up_files"}),
        ("anything/else", set()),
    ],
)  # fmt: skip
def test_who_may_read_which_key(everything: Template, key: str, readers: set[str]) -> None:
    assert allowed(everything, "s3:GetObject", key) == readers


@pytest.mark.parametrize(
    ("key", "hiders"),
    [
        (keys.data("shop", RUN, "toc.dat"), {"prune"}),
        (keys.manifest("shop", RUN), {"prune"}),
        (keys.summary(RUN), set()),
        (keys.restore_plan(RUN, "data"), set()),
    ],
)
def test_who_may_delete_which_key(everything: Template, key: str, hiders: set[str]) -> None:
    assert allowed(everything, "s3:DeleteObject", key) == hiders


@pytest.mark.parametrize(
    ("key", "who"),
    [
        (keys.data("shop", RUN, "toc.dat"), {"back_up_postgres", "seal"}),
        (keys.data("uploads", RUN, "0.tar.zst"), {"back_up_files", "seal"}),
        (keys.listing(RUN, "uploads", "0001"), {"plan_source", "seal"}),
        (keys.restore_plan(RUN, "data"), {"plan_restore"}),
        ("anything/else", set()),
    ],
)
def test_who_may_abort_which_upload(everything: Template, key: str, who: set[str]) -> None:
    assert allowed(everything, "s3:AbortMultipartUpload", key) == who


def test_open_uploads_are_listed_only_by_what_aborts_them(everything: Template) -> None:
    listers = {
        name
        for name, function in everything.functions.items()
        for statement in everything.statements(function["Role"])
        if "s3:ListBucketMultipartUploads" in listed(statement["Action"])
    }

    assert listers == {*BACK_UP, "seal"}


def allowed(template: Template, action: str, key: str) -> set[str]:
    """Functions that may do that to the vault's object."""
    bucket = template.vault_id
    return {
        name
        for name, function in template.functions.items()
        if template.may(function["Role"], action, f"<{bucket}.Arn>/{key}")
    }


def test_a_source_in_a_bucket_is_listed_only_below_its_prefix(everything: Template) -> None:
    for name in ("plan_source", "back_up_files"):
        (condition,) = (
            statement["Condition"]
            for statement in everything.statements(everything.functions[name]["Role"])
            if "arn:<AWS::Partition>:s3:::acme-uploads" in listed(statement["Resource"])
        )
        assert condition == {"StringLike": {"s3:prefix": ["public/*"]}}


def test_no_role_may_do_what_none_needs(everything: Template) -> None:
    """A right that is new has to be written down here as well."""
    actions = {
        action
        for role in everything.roles
        for statement in everything.statements(role)
        for action in listed(statement["Action"])
        if action.split(":")[0] in {"s3", "kms", "secretsmanager", "ssm", "rds-db", "lambda"}
    }

    assert actions == {
        "s3:ListBucket", "s3:GetObject", "s3:GetObjectTagging", "s3:PutObject", "s3:DeleteObject",
        "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts", "s3:ListBucketMultipartUploads",
        "kms:Decrypt", "kms:GenerateDataKey",
        "secretsmanager:GetSecretValue", "ssm:GetParameter", "rds-db:connect",
        "lambda:InvokeFunction",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("function", "service", "context"),
    [
        ("back_up_postgres", "secretsmanager", {"kms:EncryptionContext:SecretARN": ["arn:<AWS::Partition>:secretsmanager:<AWS::Region>:<AWS::AccountId>:secret:prod/shop-??????"]}),
        ("back_up_mysql", "ssm", {"kms:EncryptionContext:PARAMETER_ARN": ["arn:<AWS::Partition>:ssm:<AWS::Region>:<AWS::AccountId>:parameter/prod/blog/url"]}),
        ("back_up_files", "s3", {"kms:EncryptionContext:aws:s3:arn": ["arn:<AWS::Partition>:s3:::acme-uploads*"]}),
    ],
)  # fmt: skip
def test_a_foreign_key_decrypts_only_what_the_source_names(
    everything: Template, function: str, service: str, context: dict[str, list[str]]
) -> None:
    (condition,) = (
        statement["Condition"]
        for statement in everything.statements(everything.functions[function]["Role"])
        if any("key/*" in resource for resource in listed(statement["Resource"]))
    )

    like = {k: listed(v) for k, v in condition["StringLike"].items()}
    region = "*" if service == "s3" else "<AWS::Region>"
    via = [f"{service}.{region}.{domain}" for domain in ("amazonaws.com", "<AWS::URLSuffix>")]
    assert like.pop("kms:ViaService") == via
    assert like == context


@pytest.mark.parametrize(
    ("action", "resource", "readers"),
    [
        ("secretsmanager:GetSecretValue", "secretsmanager:<AWS::Region>:<AWS::AccountId>:secret:prod/shop-a1B2c3", {"back_up_postgres"}),
        ("secretsmanager:GetSecretValue", "secretsmanager:<AWS::Region>:<AWS::AccountId>:secret:prod/shopping-a1B2c3", set()),
        ("secretsmanager:GetSecretValue", "secretsmanager:eu-central-1:123456789012:secret:staging-AbCdEf", {"restore", "plan_restore"}),
        ("ssm:GetParameter", "ssm:<AWS::Region>:<AWS::AccountId>:parameter/prod/blog/url", {"back_up_mysql"}),
        ("rds-db:connect", "rds-db:<AWS::Region>:<AWS::AccountId>:dbuser:cluster-X/stepvault", {"back_up_postgres"}),
        ("rds-db:connect", "rds-db:<AWS::Region>:<AWS::AccountId>:dbuser:cluster-X/admin", set()),
        ("s3:GetObject", "s3:::acme-uploads/public/cat.jpg", {"back_up_files", "plan_source"}),
        ("s3:GetObject", "s3:::acme-uploads/private/cat.jpg", set()),
        ("s3:ListBucket", "s3:::acme-uploads", {"back_up_files", "plan_source"}),
    ],
)  # fmt: skip
def test_who_may_read_which_source(
    everything: Template, action: str, resource: str, readers: set[str]
) -> None:
    partition = "aws" if "123456789012" in resource else "<AWS::Partition>"
    found = {
        name
        for name, function in everything.functions.items()
        if everything.may(function["Role"], action, f"arn:{partition}:{resource}")
    }

    assert found == readers


def test_keys_that_are_not_ours_decrypt_only_through_the_service_that_was_asked(
    everything: Template,
) -> None:
    foreign = [
        statement
        for function in everything.functions.values()
        for statement in everything.statements(function["Role"])
        if any("key/*" in r for r in listed(statement["Resource"]))
    ]

    assert foreign
    for statement in foreign:
        assert listed(statement["Action"]) == ["kms:Decrypt"]
        (condition,) = statement["Condition"].values()
        # The service gives nothing but what the role's other statements name.
        services = {via.split(".")[0] for via in listed(condition["kms:ViaService"])}
        assert len(services) == 1
        assert services <= {"secretsmanager", "ssm", "s3"}


def test_only_restores_and_sqlite_locks_write_to_the_file_system(everything: Template) -> None:
    writers = {
        name
        for name, function in everything.functions.items()
        for statement in everything.statements(function["Role"])
        if "elasticfilesystem:ClientWrite" in listed(statement["Action"])
    }

    assert writers == {"back_up_sqlite", "plan_restore", "restore"}


def test_each_function_has_a_role_and_a_log_of_its_own(everything: Template) -> None:
    functions = everything.functions.values()

    assert len({f["Role"] for f in functions}) == len(functions)
    assert len({json.dumps(f["LoggingConfig"]) for f in functions}) == len(functions)
