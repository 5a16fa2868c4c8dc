"""Large configurations stay within AWS's quotas, which a synth does not know."""

import json
from pathlib import Path

import pytest

from tests.infra.synth import Template, synthesize

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
INLINE, MANAGED, MANAGED_PER_ROLE = 10_240, 6_144, 10
RESOURCES = (
    500  # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
)
TEMPLATE = 1 << 20
DESCRIPTION = (
    512  # https://docs.aws.amazon.com/scheduler/latest/APIReference/API_CreateSchedule.html
)
DASHBOARD_METRICS = 2_500
VARIABLES = 4 << 10


def many(databases: int, buckets: int = 0, schedules: int = 0, engine: str = "postgres") -> str:
    """A configuration of that many of everything, with long names."""
    lines = ['architecture = "arm64"']
    for n in range(databases):
        name = f"customer-database-number-{n:04d}"
        lines += [
            "[[sources]]",
            f'name = "{name}"',
            f'engine = "{engine}"',
            f'connection = {{ secret = "production/customers/{name}" }}',
        ]
    for n in range(buckets):
        lines += [
            "[[sources]]",
            f'name = "bucket-{n}"',
            'engine = "files"',
            f'path = "s3://acme-customer-uploads-{n:04d}/public/"',
        ]
    names = json.dumps([f"customer-database-number-{n:04d}" for n in range(databases)])
    for n in range(schedules):
        lines += [
            "[[schedules]]",
            f'name = "schedule-{n}"',
            f'when = "cron(0 {n % 24} * * ? *)"',
            f"sources = {names}",
        ]
    return "\n".join(lines)


@pytest.fixture(scope="module", params=[(1, 0, 1), (100, 10, 5), (500, 50, 30)], ids=str)
def large(
    request: pytest.FixtureRequest, layers: None, tmp_path_factory: pytest.TempPathFactory
) -> Template:
    out = tmp_path_factory.mktemp("large")
    config = out.with_suffix(".toml")
    config.write_text(many(*request.param))
    synthesize(config, out)
    return Template.read(out)


def deployed(document: object) -> int:
    """Characters of a policy once its references are what they stand for; IAM counts no spaces."""
    text = json.dumps(document, separators=(",", ":"))
    for reference, value in {
        "<AWS::Partition>": "aws-us-gov",
        "<AWS::Region>": "ap-southeast-4",
        "<AWS::AccountId>": "123456789012",
    }.items():
        text = text.replace(reference, value)
    return len(text)


def test_every_role_fits_into_its_policies(large: Template) -> None:
    for role in large.roles:
        own, *managed = large.policies(role)

        assert deployed(own) <= INLINE, role
        assert len(managed) <= MANAGED_PER_ROLE, role
        assert all(deployed(policy) <= MANAGED for policy in managed), role


def test_every_secret_is_named_and_no_other_may_be_read(large: Template) -> None:
    role = large.functions["back_up_postgres"]["Role"]
    named = {
        resource.rsplit(":", 1)[1]
        for statement in large.statements(role)
        if "secretsmanager:GetSecretValue" in statement["Action"]
        for resource in (
            statement["Resource"]
            if isinstance(statement["Resource"], list)
            else [statement["Resource"]]
        )
    }
    document = json.loads((large.handlers / "stepvault.json").read_text())
    wanted = {
        f"{s['connection']['secret']}-??????"
        for s in document["sources"]
        if s["engine"] == "postgres"
    }

    assert named == wanted


def test_the_stack_has_no_more_resources_than_one_may(large: Template) -> None:
    raw = (large.assembly / "Stepvault.template.json").read_bytes()

    assert len(large.resources) <= RESOURCES
    assert len(raw) <= TEMPLATE


def test_schedules_are_described_in_as_many_characters_as_there_are(large: Template) -> None:
    for schedule in large.of_type("AWS::Scheduler::Schedule").values():
        assert len(schedule["Description"]) <= DESCRIPTION


def test_the_dashboard_draws_no_line_per_source(large: Template) -> None:
    board = json.loads(large.only("AWS::CloudWatch::Dashboard")["DashboardBody"])
    lines = [line for w in board["widgets"] for line in w["properties"].get("metrics", [])]

    assert len(lines) < 50 < DASHBOARD_METRICS


def test_environments_stay_small(large: Template) -> None:
    for name, function in large.functions.items():
        assert len(json.dumps(function["Environment"])) < VARIABLES, name


def test_names_that_the_stack_uses_itself_are_nobodys_problem(layers: None, tmp_path: Path) -> None:
    config = tmp_path / "stepvault.toml"
    lines = []
    for name in ("Role", "Missed", "Check", "Topic", "Default", "Resource"):
        lines += [
            "[[sources]]",
            f'name = "{name}"',
            'engine = "files"',
            f'path = "/mnt/efs/{name}"',
        ]
        lines += ["[[schedules]]", f'name = "{name}"', 'when = "rate(1 day)"']
    config.write_text("\n".join(lines))

    synthesize(config, tmp_path / "out")


def test_more_secrets_than_iam_can_name_are_refused_with_the_way_out(
    layers: None, tmp_path: Path
) -> None:
    config = tmp_path / "stepvault.toml"
    config.write_text(many(1500))

    done = synthesize(config, tmp_path / "out", check=False)

    assert done.returncode != 0
    assert "IAM allows 10" in done.stderr
    assert "several stacks" in done.stderr
    assert "Traceback" not in done.stderr
