"""From connection settings to an address and credentials.

The only room that calls Secrets Manager and SSM and signs tokens for RDS.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, unquote, urlsplit

from stepvault.aws_errors import AwsProblem, translated
from stepvault.engines.base import Connection
from stepvault.errors import (
    ConfigInvalid,
    SourceBusy,
    SourceDenied,
    SourceMissing,
    SourceUnreachable,
    StepvaultError,
)
from stepvault.settings import ConnectionSettings, Tls

_ALIASES = {
    "host": ("host", "hostname", "server"),
    "port": ("port",),
    "user": ("username", "user"),
    "password": ("password",),
    "database": ("dbname", "database"),
}


def resolve(settings: ConnectionSettings, database: str | None = None) -> Connection:
    """Find out where to connect and as whom.

    Values written in the settings win over those of the secret; ``database`` wins over both.

    Raises:
        ConfigInvalid: the secret's content or the URL cannot be understood.
        SourceMissing, SourceDenied, SourceBusy, SourceUnreachable: the secret cannot be read.
    """
    values = _values(settings)
    host = settings.host or values.get("host")
    if not host:
        raise ConfigInvalid(
            f"{_origin(settings)} names no host", 'Add "host" to it, or host = "…" beside it'
        )
    return Connection(
        host=host,
        port=settings.port or values.get("port"),
        user=settings.user or values.get("user"),
        password=values.get("password"),
        database=database or settings.database or values.get("database"),
        tls=settings.tls or values.get("tls") or ("verify-full" if settings.iam else "prefer"),
        tls_ca=settings.tls_ca or _rds_ca(host),
    )


def _rds_ca(host: str) -> str | None:
    """Return the file with the certificate authorities of RDS, for hosts of RDS."""
    if host.endswith((".rds.amazonaws.com", ".rds.amazonaws.com.cn")):
        return str(Path(__file__).with_name("rds-ca.pem"))
    return None


def _origin(settings: ConnectionSettings) -> str:
    for kind in ("secret", "parameter", "url_env"):
        if value := getattr(settings, kind):
            return f"The {kind} {value!r}"
    return "The connection"


def _values(settings: ConnectionSettings) -> Mapping[str, Any]:
    if settings.iam:
        return {"password": _token(settings)}
    if settings.url_env:
        text = os.environ.get(settings.url_env, "")  # the person's own variable, not ours
        if not text:
            raise ConfigInvalid(
                f"The environment variable {settings.url_env!r} is not set",
                "Set it to a URL such as postgresql://user:password@host:5432/database",
            )
    else:
        text = _secret(settings.secret) if settings.secret else _parameter(settings.parameter or "")
    return _parse_url(text, settings) if "://" in text[:32] else _parse_json(text, settings)


def _parse_json(text: str, settings: ConnectionSettings) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ConfigInvalid(
            f"{_origin(settings)} holds neither a JSON object nor a URL",
            'Use the RDS shape {"host": …, "port": …, "username": …, "password": …}',
        )
    return {
        name: next(
            (
                _checked(settings, name, key, content[key])
                for key in keys
                if content.get(key) not in (None, "")
            ),
            None,
        )
        for name, keys in _ALIASES.items()
    }


def _parse_url(text: str, settings: ConnectionSettings) -> Mapping[str, Any]:
    """Take a URL apart. No message holds any part of it, as each may be one of the password."""
    try:
        url = urlsplit(text)
        decoded = partial(unquote, errors="strict")
        values = {
            "host": decoded(url.hostname or ""),
            "port": url.port,
            "user": decoded(url.username or ""),
            "password": decoded(url.password or ""),
            "database": decoded(url.path.lstrip("/")),
        }
        # What follows the first "/", "?" or "#" of a password is no longer taken for one.
        right = not url.fragment and "@" not in url.path + url.query
    except ValueError:
        right = False
    if not right:
        raise ConfigInvalid(
            f"{_origin(settings)} holds a URL that cannot be taken apart",
            "In user and password percent-encode the characters # / ? @ [ ] % (%23 %2F %3F %40 %5B "
            "%5D %25); a port is a number below 65536",
        )
    query = parse_qs(url.query)
    values["host"] = values["host"] or query.get("host", [""])[0]
    tls = query.get("sslmode", [None])[0]
    if tls is not None and tls not in get_args(Tls):
        raise ConfigInvalid(
            f"{_origin(settings)}: sslmode {tls!r} is not known", f"Use {', '.join(get_args(Tls))}"
        )
    given = {name: value for name, value in values.items() if value}
    return {name: _checked(settings, name, name, value) for name, value in given.items()} | {
        "tls": tls
    }


def _checked(settings: ConnectionSettings, name: str, key: str, value: object) -> str | int:
    """Return a value of a secret if it has the right type; messages name its key alone."""
    if name == "port":
        digits = str(value) if type(value) in (int, str) else ""
        if re.fullmatch(r"[0-9]{1,5}", digits) and 0 < int(digits) < 65_536:
            return int(digits)
        wanted = "a number between 1 and 65535"
    else:
        wanted = "text in quotes, of characters that UTF-8 has, without NUL"
        if isinstance(value, str) and not re.search(r"[\x00\ud800-\udfff]", value):
            return value
    raise ConfigInvalid(
        f'{_origin(settings)}: "{key}" has to be {wanted} (value not shown)', "Correct it there"
    )


def _secret(name: str) -> str:
    import boto3
    from botocore.config import Config

    client = boto3.client("secretsmanager", config=Config(connect_timeout=10, read_timeout=10))
    return _read("secret", name, lambda: client.get_secret_value(SecretId=name)["SecretString"])


def _parameter(name: str) -> str:
    import boto3
    from botocore.config import Config

    client = boto3.client("ssm", config=Config(connect_timeout=10, read_timeout=10))
    return _read(
        "parameter",
        name,
        lambda: client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"],
    )


def _read(kind: str, name: str, call: Callable[[], object]) -> str:
    def ours(problem: AwsProblem) -> StepvaultError:
        match problem.kind:
            case "missing":
                return SourceMissing(
                    f"The {kind} {name!r} does not exist in this account and region",
                    "Check its name, or create it",
                )
            case "unset":
                return ConfigInvalid(
                    f"The {kind} {name!r} cannot be read: {problem.message}", problem.hint
                )
            case "denied":
                return SourceDenied(
                    f"The {kind} {name!r} may not be read ({problem.code})",
                    problem.hint or "Allow the function's role to read it, and to use its KMS key",
                )
            case "refused" | "changed":
                return SourceDenied(
                    f"The {kind} {name!r} cannot be read ({problem.code}): {problem.message}",
                    problem.hint or "Look at it in the AWS console; it may be marked for deletion",
                )
            case "throttled":
                return SourceBusy(
                    f"The {kind} {name!r} cannot be read now ({problem.code})",
                    "Try again later, or have fewer functions read it at a time",
                )
            case "transient":
                return SourceUnreachable(
                    f"The {kind} {name!r} cannot be read: {problem.message or problem.code}",
                    "Try again; a function in a VPC needs an interface endpoint for it",
                )

    try:
        with translated(ours):
            return str(call())
    except KeyError as error:
        raise ConfigInvalid(
            f"The {kind} {name!r} holds binary data", "Store the RDS JSON shape as text"
        ) from error


def _token(settings: ConnectionSettings) -> str:
    import boto3

    if settings.port is None:
        raise ConfigInvalid("iam needs the port beside host and user", "Add port = 5432 or 3306")
    client = boto3.client("rds")
    return str(
        client.generate_db_auth_token(
            DBHostname=settings.host or "", Port=settings.port, DBUsername=settings.user or ""
        )
    )
