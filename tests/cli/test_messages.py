"""A user's mistake is one message with the next step and an exit code, never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import invoke

EXAMPLE = Path(__file__).parents[2] / "examples" / "stepvault.toml"


def alone(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own, without this one's AWS settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "STEPVAULT_"))}
    ours = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }
    return subprocess.run(
        [sys.executable, "-m", "stepvault_cli.main", *arguments],
        env=kept | ours | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
REGION = {"AWS_DEFAULT_REGION": "eu-central-1"}


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        (REGION, 4, "There are no AWS credentials. Set AWS_PROFILE, or sign in with"),
        (KEYS, 2, "No AWS region is set. Set AWS_DEFAULT_REGION"),
        ({"AWS_PROFILE": "zork"}, 2, "The config profile (zork) could not be found"),
        (
            {**KEYS, **REGION, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            1,
            "CloudFormation cannot be reached",
        ),
    ],
)
def test_missing_credentials_region_profile_and_endpoint_are_told(
    environment: dict[str, str], code: int, said: str
) -> None:
    told = alone("runs", **{"AWS_MAX_ATTEMPTS": "1", **environment})
    assert told.returncode == code, told.stderr
    assert told.stderr.startswith("error: ")
    assert said in told.stderr
    assert "Traceback" not in told.stderr
    assert told.stdout == ""


def test_a_stack_or_bucket_that_is_not_there_exits_3(aws: str) -> None:
    stack = invoke("run", "--stack", "zork")
    assert stack.exit_code == 3
    assert "There is no CloudFormation stack 'zork' in us-east-1. Deploy it" in stack.stderr
    bucket = invoke("show", "--vault", "no-such-vault-anywhere")
    assert bucket.exit_code == 3
    assert "The vault bucket 'no-such-vault-anywhere' does not exist" in bucket.stderr


def test_a_bucket_alone_cannot_run_anything(aws: str) -> None:
    told = invoke("run", "--vault", "just-a-bucket")
    assert told.exit_code == 3
    assert "No Backup state machine is known. Leave --vault out" in told.stderr


def test_config_check_summarises_or_prints_json_or_says_every_mistake(tmp_path: Path) -> None:
    good = invoke("config", "check", str(EXAMPLE))
    assert good.exit_code == 0
    assert good.stdout.startswith("5 sources: shop (postgres), billing (postgres)")
    assert "nightly: cron(0 3 * * ? *) Europe/Berlin, all sources" in good.stdout
    as_json = invoke("config", "check", "--json", str(EXAMPLE))
    assert json.loads(as_json.stdout)["limits"]["databases"] == 3

    file = tmp_path / "bad.toml"
    file.write_text(EXAMPLE.read_text().replace('engine = "files"', 'engine = "filez"'))
    bad = invoke("config", "check", str(file))
    assert bad.exit_code == 2
    assert "bad.toml has a mistake:\n  sources.uploads.engine: unknown engine" in bad.stderr
    missing = invoke("config", "check", str(tmp_path / "none.toml"))
    assert missing.exit_code == 2
    assert "There is no configuration at" in missing.stderr


def test_config_schema_prints_the_published_schema() -> None:
    published = json.loads(EXAMPLE.with_suffix("").with_suffix(".schema.json").read_text())
    assert json.loads(invoke("config", "schema").stdout) == published


@pytest.mark.parametrize("command", ["run", "watch", "runs", "show", "restore", "prune"])
def test_help_teaches(command: str) -> None:
    told = invoke(command, "--help")
    assert told.exit_code == 0
    assert "--stack" in told.stdout
    assert "STEPVAULT_VAULT" in told.stdout


def test_help_names_the_exit_codes() -> None:
    told = invoke("--help")
    for line in ("1    the run or restore failed", "130  interrupted", "4    refused"):
        assert line in told.stdout
    assert alone("--version").stdout.startswith("stepvault, version ")


def test_a_wrong_option_is_told_with_the_usage() -> None:
    wrong = invoke("runs", "--limit", "zero")
    assert wrong.exit_code == 2
    assert "Invalid value for '--limit'" in wrong.stderr
