"""What a person is told when the vault says no: a real refusal, by an emulator that enforces IAM."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from devtools import emulator
from stepvault import storage
from stepvault.catalog import Vault
from stepvault.errors import VaultDenied
from stepvault.storage import client


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    """A vault, seen by somebody whom no policy allows anything."""
    with emulator.running(auth=True) as endpoint:
        for name, value in emulator.environment(endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        client.cache_clear()
        client().create_bucket(Bucket="closed-vault")
        boto3.client("iam").create_user(UserName="stranger")
        key = boto3.client("iam").create_access_key(UserName="stranger")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers whom it knew
        client.cache_clear()
        yield Vault("closed-vault")
    client.cache_clear()


def test_a_vault_that_refuses_is_named_with_the_call_and_the_fix(stranger: Vault) -> None:
    with pytest.raises(VaultDenied, match=r"'closed-vault' refuses PutObject .*permissions"):
        stranger.put("key", b"x")
    with pytest.raises(VaultDenied, match=r"'closed-vault' refuses ListObjectsV2"):
        stranger.sources()


def test_without_credentials_the_message_says_how_to_get_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(storage, "client", lambda: boto3.Session().client("s3"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(VaultDenied, match=r"No AWS credentials .*AWS_PROFILE"):
        Vault("any-vault").sources()
