"""From connection settings to an address and credentials.

The only room that calls Secrets Manager and SSM and signs tokens for RDS.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
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
from stepvault.settings import ConnectionSettings

_ALIASES = {
    "host": ("host", "hostname", "server"),
    "port": ("port",),
    "user": ("username", "user"),
    "password": ("password",),
    "database": ("dbname", "database"),
}


def resolve(settings: ConnectionSettings, database: str | None = None) -> Connection:
    """Where to connect and as whom.

    Values written in the settings win over those of the secret; ``database`` wins over both.

    Raises:
        ConfigInvalid: the secret's content or the URL cannot be understood.
        SourceMissing, SourceDenied, SourceUnreachable: the secret cannot be read.
    """
    values = _values(settings)
    host = settings.host or values.get("host")
    if not host:
        raise ConfigInvalid(
            f"{_origin(settings)} names no host", 'Add "host" to it, or host = "…" beside it'
        )
    port = settings.port or values.get("port")
    return Connection(
        host=str(host),
        port=int(port) if port else None,
        user=settings.user or values.get("user"),
        password=values.get("password"),
        database=database or settings.database or values.get("database"),
        tls=settings.tls or values.get("tls") or ("verify-full" if settings.iam else "prefer"),
        tls_ca=settings.tls_ca or _rds_ca(str(host)),
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
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ConfigInvalid(
            f"{_origin(settings)} holds neither a JSON object nor a URL",
            'Use the RDS shape {"host": …, "port": …, "username": …, "password": …}',
        )
    return {
        name: next((content[a] for a in aliases if content.get(a) not in (None, "")), None)
        for name, aliases in _ALIASES.items()
    }


def _parse_url(text: str, settings: ConnectionSettings) -> Mapping[str, Any]:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise ConfigInvalid(f"{_origin(settings)} holds a URL with a bad port") from error
    query = parse_qs(url.query)
    return {
        "host": unquote(url.hostname or "") or query.get("host", [None])[0],
        "port": port,
        "user": unquote(url.username) if url.username else None,
        "password": unquote(url.password) if url.password else None,
        "database": unquote(url.path.lstrip("/")) or None,
        "tls": query.get("sslmode", [None])[0],
    }


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
