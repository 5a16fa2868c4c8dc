import json
import ssl
import uuid
from collections.abc import Callable
from urllib.parse import unquote

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


def everything_told(error: BaseException) -> str:
    """The error's text and that of every error behind it."""
    texts: list[str] = []
    link: BaseException | None = error
    while link is not None:
        texts += [str(link), repr(link)]
        link = link.__cause__ or link.__context__
    return "\n".join(texts)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://backup:sesame#street@db:5432/shop",
        "postgresql://backup:sesame/street@db:5432/shop",
        "postgresql://backup:sesame?street@db:5432/shop",
        "postgresql://backup:12345#sesame@db:5432/shop",
        "postgresql://backup:12345/sesame@db:5432/shop",
        "postgresql://backup:sesame@x#street@db:5432/shop",
        "postgresql://backup:sesame[street@db:5432/shop",
        "postgresql://backup:sesame]street@db:5432/shop",
        "postgresql://backup:sesame\u2100street@db:5432/shop",
        "postgresql://backup:sesame@db:port/shop",
        "postgresql://backup:sesame@db:99999/shop",
    ],
)
def test_a_url_that_cannot_be_right_is_refused_without_a_word_of_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_URL", url)
    with pytest.raises(ConfigInvalid, match=r"'SHOP_URL'.*percent-encode") as refused:
        resolve(ConnectionSettings(url_env="SHOP_URL"))
    told = everything_told(refused.value)
    for secret_word in ("sesame", "street", "12345"):
        assert secret_word not in told


@pytest.mark.parametrize("password", ["a%23b%2Fc%3Fd%40e", "100%25", "plain:colon", "a@b"])
def test_a_percent_encoded_password_is_decoded(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_URL", f"postgresql://u:{password}@h:1/shop")
    assert resolve(ConnectionSettings(url_env="SHOP_URL")).password == unquote(password)


def test_a_tls_mode_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_URL", "postgresql://u:p@h/shop?sslmode=always")
    with pytest.raises(ConfigInvalid, match=r"sslmode 'always'.*verify-full"):
        resolve(ConnectionSettings(url_env="SHOP_URL"))


def test_a_port_may_be_text(secret: PutSecret) -> None:
    assert resolve(secret(json.dumps(RDS | {"port": "5433"}))).port == 5433
    assert resolve(secret(json.dumps(RDS | {"port": ""}))).port is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", 7),
        ("host", ["db"]),
        ("username", {"name": "u"}),
        ("username", True),
        ("password", 8675309),
        ("password", ["hunter2"]),
        ("password", "hunter2\udcff"),
        ("password", "hunter2\x00"),
        ("dbname", 3.5),
        ("port", "five"),
        ("port", 5432.5),
        ("port", True),
        ("port", 0),
        ("port", 65_536),
        ("port", "9" * 5000),
        ("port", {}),
    ],
)
def test_a_value_of_the_wrong_type_is_named_by_its_key_alone(
    secret: PutSecret, key: str, value: object
) -> None:
    settings = secret(json.dumps(RDS | {key: value}))
    with pytest.raises(ConfigInvalid, match=f'The secret .*: "{key}" has to be') as refused:
        resolve(settings)
    told = everything_told(refused.value)
    assert "hunter2" not in told
    assert "8675309" not in told


def test_a_secret_that_is_nested_without_end_is_no_traceback(secret: PutSecret) -> None:
    with pytest.raises(ConfigInvalid, match="neither a JSON object nor a URL"):
        resolve(secret("[" * 50_000))


def test_a_variable_that_is_not_utf_8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_URL", "postgresql://u:hunter2\udcff@h/shop")
    with pytest.raises(ConfigInvalid, match=r'"password" has to be') as refused:
        resolve(ConnectionSettings(url_env="SHOP_URL"))
    assert "hunter2" not in everything_told(refused.value)
