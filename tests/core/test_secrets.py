import json
import ssl
import uuid
from collections.abc import Callable

import boto3
import pytest

from stepvault.errors import ConfigInvalid, SourceMissing
from stepvault.secrets import resolve
from stepvault.settings import ConnectionSettings

RDS = {
    "engine": "postgres",
    "host": "db.internal",
    "port": 5432,
    "username": "backup",
    "password": "s3cr:t/@",
    "dbname": "shop",
}


PutSecret = Callable[[str], ConnectionSettings]


@pytest.fixture
def secret(aws: str) -> PutSecret:
    def put(text: str) -> ConnectionSettings:
        name = f"test/{uuid.uuid4().hex}"
        boto3.client("secretsmanager").create_secret(Name=name, SecretString=text)
        return ConnectionSettings(secret=name)

    return put


def test_a_secret_in_the_shape_rds_makes_gives_address_and_credentials(secret: PutSecret) -> None:
    c = resolve(secret(json.dumps(RDS)))
    assert (c.host, c.port, c.user, c.password, c.database, c.tls) == (
        "db.internal", 5432, "backup", "s3cr:t/@", "shop", "prefer",
    )  # fmt: skip
    assert "s3cr" not in repr(c)


def test_what_the_settings_say_wins_over_the_secret(secret: PutSecret) -> None:
    settings = secret(json.dumps(RDS)).model_copy(
        update={"host": "replica", "database": "crm", "tls": "verify-full"}
    )
    c = resolve(settings)
    assert (c.host, c.database, c.tls, c.user) == ("replica", "crm", "verify-full", "backup")
    assert resolve(settings, database="copy").database == "copy"


def test_a_parameter_may_hold_a_url(aws: str) -> None:
    name = f"/test/{uuid.uuid4().hex}"
    boto3.client("ssm").put_parameter(
        Name=name, Value="mysql://u%40x:p%2Fw@h:3307/my%20db", Type="SecureString"
    )
    c = resolve(ConnectionSettings(parameter=name))
    assert (c.host, c.port, c.user, c.password, c.database) == ("h", 3307, "u@x", "p/w", "my db")


def test_an_environment_variable_may_hold_a_url_with_a_tls_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_URL", "postgresql://u:p@h/shop?sslmode=require")
    assert resolve(ConnectionSettings(url_env="SHOP_URL")).tls == "require"


def test_an_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_URL", raising=False)
    with pytest.raises(ConfigInvalid, match="'SHOP_URL' is not set"):
        resolve(ConnectionSettings(url_env="SHOP_URL"))


@pytest.mark.usefixtures("aws")
def test_a_secret_that_does_not_exist_is_named() -> None:
    with pytest.raises(SourceMissing, match="'prod/nope' does not exist"):
        resolve(ConnectionSettings(secret="prod/nope"))


@pytest.mark.parametrize("text", ["hunter2", "[1]", ""])
def test_a_secret_of_another_shape_is_refused_without_showing_it(
    secret: PutSecret, text: str
) -> None:
    settings = secret(text or " ")
    with pytest.raises(ConfigInvalid, match="neither a JSON object nor a URL") as caught:
        resolve(settings)
    assert "hunter2" not in str(caught.value)


def test_a_secret_without_a_host_says_so(secret: PutSecret) -> None:
    with pytest.raises(ConfigInvalid, match="names no host"):
        resolve(secret(json.dumps({"username": "u"})))


@pytest.mark.usefixtures("aws")
def test_iam_authentication_signs_a_token_and_insists_on_tls() -> None:
    c = resolve(ConnectionSettings(iam=True, host="db.internal", port=5432, user="backup"))
    assert c.password
    assert c.password.startswith("db.internal:5432/?Action=connect")
    assert c.tls == "verify-full"


def test_rds_hosts_are_checked_against_the_authorities_of_rds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DB_URL", "postgresql://u@shop.abc.eu-central-1.rds.amazonaws.com/shop")
    c = resolve(ConnectionSettings(url_env="DB_URL", tls="verify-full"))
    context = ssl.create_default_context(cafile=c.tls_ca)
    assert len(context.get_ca_certs()) > 50
    own = resolve(ConnectionSettings(url_env="DB_URL", tls="verify-full", tls_ca="/my/ca.pem"))
    assert own.tls_ca == "/my/ca.pem"
    monkeypatch.setenv("DB_URL", "postgresql://u@localhost/shop")
    assert resolve(ConnectionSettings(url_env="DB_URL")).tls_ca is None
