"""Everything that is wrong with a configuration, one line each. Pure.

A line holds the path with the source's name, the value, what is wrong and the fix. The
models' complaints come first, then what no single model can see: names that refer to each
other, time zones, values that AWS would refuse in mid-deployment. Credentials that somebody
put into the file are named by their place and never shown.
"""

import difflib
import json
import re
import zoneinfo
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stepvault import expressions
from stepvault.keys import SAFE_NAME
from stepvault.settings import Config, Settings, Source

#: Days that CloudWatch Logs accepts; any other number fails in mid-deployment.
LOG_RETENTION_DAYS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731),
    *(1096, 1827, 2192, 2557, 2922, 3288, 3653),
)
_CREDENTIAL_KEYS = {
    *("password", "passwd", "pass", "pwd", "token", "url", "uri", "dsn", "username_password"),
    *("access_key", "access_key_id", "secret_key", "secret_access_key", "credentials"),
}
#: What other tools call our keys, where the letters alone would not lead there.
_OTHER_WORDS = {
    word: ours
    for ours, words in {
        "user": "username login",
        "database": "dbname db",
        "tls": "sslmode ssl",
        "engine": "type kind",
        "when": "cron rate expression schedule",
        "compression_level": "level",
        "exclude": "ignore",
        "path": "directory file folder",
    }.items()
    for word in words.split()
}
_ENGINE_WORDS = {
    word: ours
    for ours, words in {
        "postgres": "postgresql pg aurora-postgresql",
        "mysql": "mariadb aurora-mysql",
        "sqlite": "sqlite3",
        "files": "directory folder efs s3",
    }.items()
    for word in words.split()
}
_NO_CREDENTIALS = (
    "credentials do not belong in this file (value not shown); put them into a Secrets Manager "
    'secret and name that: secret = "prod/shop"'
)

Location = tuple[str | int, ...]


def find(raw: dict[str, Any]) -> list[str]:
    """Every mistake in the mapping that TOML or JSON gave; empty when it is right."""
    return list(dict.fromkeys([*_model_mistakes(raw), *_cross_mistakes(raw)]))


# What the models say


def _model_mistakes(raw: dict[str, Any]) -> Iterator[str]:
    """Every complaint of the models.

    A model's own rules are only looked at once its fields are right, so what is wrong is
    taken out (or an engine's name put right) and the rest checked again.
    """
    rest = deepcopy(raw)
    reported: set[Location] = set()
    while True:
        try:
            Config.model_validate(rest)
        except ValidationError as e:
            fresh = [d for d in e.errors(include_url=False) if d["loc"] not in reported]
        else:
            return
        if not fresh:
            return
        for error in fresh:
            reported.add(error["loc"])
            yield _line(raw, error)
            _take_out(rest, error)


def _take_out(rest: dict[str, Any], error: ErrorDetails) -> None:
    loc = _without_tags(error["loc"])
    if error["type"] == "union_tag_invalid":
        source = _value_at(rest, loc)
        source["engine"] = _near_engine(str(source["engine"])) or "files"
        return
    parent, key = _value_at(rest, loc[:-1]), loc[-1] if loc else None
    if isinstance(parent, dict) and key in parent:
        del parent[key]


def _line(raw: dict[str, Any], error: ErrorDetails) -> str:
    loc = _without_tags(error["loc"])
    return _label(raw, loc) + _complaint(error, loc)


def _complaint(error: ErrorDetails, loc: Location) -> str:  # noqa: PLR0911 - one per kind
    """What follows the path."""
    field = _field_at(error["loc"])
    value = _shown(error["input"])
    described = (
        field.description.rstrip(".").replace("``", "") if field and field.description else ""
    )
    about = f" ({described})" if described else ""
    match error["type"]:
        case "extra_forbidden":
            return f": {_unknown_key(error['loc'])}"
        case "missing":
            return f": missing{about}"
        case "union_tag_invalid":
            return f".engine: {_unknown_engine(error['input'])}"
        case "union_tag_not_found":
            return f".engine: missing; one of {', '.join(_engines())}"
        case "string_pattern_mismatch" if loc[-1] == "name" or "sources" in loc[2:3]:
            return (
                f" = {value}: not a safe name; use 1 to 63 letters, digits, '.', '_' and '-', "
                "the first a letter or digit"
            )
        case "string_pattern_mismatch" if loc[-1] == "when":
            return f" = {value}: no schedule; {expressions.problem('')}"
        case "model_type" | "model_attributes_type":
            return f": has to be a table, found {value}"
        case "value_error":
            return f": {error['msg'].removeprefix('Value error, ')}"
        case "literal_error":
            known = error["ctx"]["expected"].replace("'", "")
            return f" = {value}: {_known_words(str(error['input']), re.split(', | or ', known))}"
        case kind:
            return f" = {value}: {_MESSAGES.get(kind, error['msg']).format(**error.get('ctx', {}))}{about}"


_MESSAGES = {
    "greater_than_equal": "has to be at least {ge}",
    "less_than_equal": "has to be at most {le}",
    "int_type": "has to be a whole number without quotes",
    "bool_type": "has to be true or false, without quotes",
    "string_type": "has to be text in quotes",
    "list_type": 'has to be a list, such as ["…"]',
    "string_pattern_mismatch": "does not have the form {pattern}",
    "too_short": "needs at least {min_length}",
}


def _unknown_key(loc: Location) -> str:
    key = str(loc[-1])
    if key.lower() in _CREDENTIAL_KEYS:
        return _NO_CREDENTIALS
    known = [
        field.alias or name
        for model in _models_at(loc[:-1])
        for name, field in model.model_fields.items()
    ]
    other = _OTHER_WORDS.get(key.lower())
    near = [other] if other in known else difflib.get_close_matches(key.lower(), known, 1)
    return "unknown key; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")


def _unknown_engine(source: dict[str, Any]) -> str:
    given = str(source.get("engine"))
    near = _near_engine(given)
    return (
        f"unknown engine {given!r}; "
        + (f"did you mean {near}? " if near else "")
        + f"known: {', '.join(_engines())}"
    )


def _near_engine(given: str) -> str | None:
    near = difflib.get_close_matches(given.lower(), _engines(), 1)
    return _ENGINE_WORDS.get(given.lower()) or (near[0] if near else None)


def _known_words(given: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, known, 1)
    return (f"did you mean {near[0]}? " if near else "") + f"one of {', '.join(known)}"


# Paths: what the models call ('sources', 2, 'postgres', 'connection', 'port') is sources.shop.connection.port


@cache
def _engines() -> dict[str, type[Settings]]:
    union = get_args(Source)[0]
    return {get_args(m.model_fields["engine"].annotation)[0]: m for m in get_args(union)}


def _without_tags(loc: Location) -> Location:
    """The path in the file: the models put the engine's name after a source's number."""
    if len(loc) > 2 and loc[0] == "sources" and loc[2] in _engines():
        return loc[:2] + loc[3:]
    return loc


def _value_at(raw: Any, loc: Location) -> Any:
    for step in loc:
        try:
            raw = raw[step]
        except (KeyError, IndexError, TypeError):
            return None
    return raw


def _label(raw: dict[str, Any], loc: Location) -> str:
    """The path as a person would say it; a list's entry goes by its name if only it has it."""
    label = ""
    here: Any = raw
    for step in loc:
        siblings, here = here, _value_at(here, (step,))
        if isinstance(step, str):
            label += f".{step}" if label else step
            continue
        name = here.get("name") if isinstance(here, dict) else None
        names = [s.get("name") for s in siblings or () if isinstance(s, dict)]
        ours = isinstance(name, str) and names.count(name) == 1 and SAFE_NAME.fullmatch(name)
        label += f".{name}" if ours else f"[{step}]"
    return label or "the file"


def _models_at(loc: Location) -> list[type[Settings]]:
    """The models whose keys may stand at that path."""
    models: list[type[Settings]] = [Config]
    for step in loc:
        if step in _engines() and len(models) > 1:
            models = [_engines()[str(step)]]
        elif isinstance(step, str):
            models = [
                inner
                for model in models
                for name, field in model.model_fields.items()
                if step in (field.alias, name)
                for inner in _models_in(field.annotation)
            ]
    return models


def _models_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models_in(arg)]


def _field_at(loc: Location) -> FieldInfo | None:
    for model in _models_at(loc[:-1]):
        for name, field in model.model_fields.items():
            if loc and loc[-1] == (field.alias or name):
                return field
    return None


def _shown(value: Any) -> str:
    """The value as TOML would write it, cut short; never one that looks like a credential."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if _holds_credential(text):
        return "(not shown: it looks like a credential)"
    return text if len(text) <= 60 else text[:57] + "…"


def _holds_credential(text: str) -> bool:
    return bool(re.search(r"://[^/@\s]*:[^/@\s]*@|passw(or)?d|AKIA[0-9A-Z]{12}", text, re.I))


# What no single model can see


def _cross_mistakes(raw: dict[str, Any]) -> Iterator[str]:
    """Looks at the raw mapping, so that these are found beside the models' complaints."""
    for group in ("sources", "targets", "schedules"):
        yield from _twins(raw, group)
    for place, entry in _entries(raw, "sources"):
        yield from _source_mistakes(place, entry)
    for place, entry in _entries(raw, "targets"):
        yield from _connection_mistakes(f"{place}.connection", _table(entry, "connection"))
        if (path := _text(entry, "path")) is not None and not path.startswith("/"):
            yield f"{place}.path = {_shown(path)}: has to be a folder's absolute path"
    names = [str(s.get("name")) for _, s in _entries(raw, "sources")]
    for place, entry in _entries(raw, "schedules"):
        yield from _schedule_mistakes(place, entry, names)
    yield from _deployment_mistakes(raw)


def _entries(raw: dict[str, Any], group: str) -> Iterator[tuple[str, dict[str, Any]]]:
    listed = raw.get(group)
    for i, entry in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(entry, dict):
            yield _label(raw, (group, i)), entry


def _table(raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _text(raw: dict[str, Any], key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) else None


def _twins(raw: dict[str, Any], group: str) -> Iterator[str]:
    listed = raw.get(group)
    where: dict[str, list[int]] = {}
    for i, entry in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            where.setdefault(entry["name"], []).append(i)
    for name, places in where.items():
        if len(places) > 1:
            said = " and ".join(f"{group}[{i}]" for i in places)
            yield f"{said}: both named {name!r}; give each a name of its own"


def _source_mistakes(place: str, source: dict[str, Any]) -> Iterator[str]:
    yield from _connection_mistakes(f"{place}.connection", _table(source, "connection"))
    yield from _path_mistakes(place, source)
    definer = _text(source, "definer")
    if definer and definer not in ("keep", "strip") and "@" not in definer:
        yield f"{place}.definer = {_shown(definer)}: has to be keep, strip or an account such as backup@localhost"


def _connection_mistakes(place: str, connection: dict[str, Any]) -> Iterator[str]:
    for key in ("secret", "parameter", "url_env", "host"):
        value = _text(connection, key)
        if value and ("://" in value or value.lstrip().startswith("{")):
            what = {
                "url_env": "the name of an environment variable, such as SHOP_URL",
                "host": "a host name only; port, user and database have keys of their own",
            }.get(key, f"the name of a {key}, such as prod/shop")
            yield f"{place}.{key} (value not shown): has to be {what}"
    tls, ca = _text(connection, "tls"), connection.get("tls_ca")
    if connection.get("iam") is True and tls in ("disable", "prefer"):
        yield f'{place}.tls = "{tls}": IAM authentication needs TLS; leave tls out or use verify-full'
    if ca and tls in ("disable", "prefer", "require"):
        yield f'{place}.tls_ca: has no effect with tls = "{tls}"; use verify-ca or verify-full'


def _path_mistakes(place: str, entry: dict[str, Any]) -> Iterator[str]:
    path = _text(entry, "path")
    if path is None:
        return
    if path.startswith("s3://"):
        if not re.match(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/|$)", path):
            yield f"{place}.path = {_shown(path)}: has to be s3://bucket/prefix"
    elif not path.startswith("/"):
        yield f"{place}.path = {_shown(path)}: has to be absolute, such as /mnt/efs/{path or 'data'}, or s3://bucket/prefix"


def _schedule_mistakes(place: str, schedule: dict[str, Any], names: list[str]) -> Iterator[str]:
    when, zone = _text(schedule, "when"), _text(schedule, "timezone")
    if when and re.match(r"(rate|cron|at)\(.+\)$", when) and (said := expressions.problem(when)):
        yield f"{place}.when = {_shown(when)}: {said}"
    zones = _zones()
    if zone is not None and zones and zone not in zones:
        near = difflib.get_close_matches(zone, zones, 1) or [
            z for z in sorted(zones) if z.rsplit("/", 1)[-1].lower() == zone.lower()
        ]
        hint = f"did you mean {near[0]}?" if near else "use an IANA name such as Europe/Berlin"
        yield f"{place}.timezone = {_shown(zone)}: no such time zone; {hint}"
    wanted = schedule.get("sources")
    for name in wanted if isinstance(wanted, list) else []:
        if isinstance(name, str) and name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"sources: {', '.join(names) or 'none'}"
            yield f"{place}.sources: there is no source {_shown(name)}; {hint}"


@cache
def _zones() -> frozenset[str]:
    # Empty where the machine has no zone files (a slim container): then nothing is refused;
    # the names were checked at synth.
    return frozenset(zoneinfo.available_timezones())


def _deployment_mistakes(raw: dict[str, Any]) -> Iterator[str]:
    """Values that CloudFormation would refuse in mid-deployment."""
    days = raw.get("log_retention_days", 90)
    if isinstance(days, int) and days > 0 and days not in LOG_RETENTION_DAYS:
        near = min(LOG_RETENTION_DAYS, key=lambda known: abs(known - days))
        yield f"log_retention_days = {days}: CloudWatch Logs does not offer that; the nearest is {near}"
    vault, network = _table(raw, "vault"), _table(raw, "network")
    bucket = _text(vault, "bucket")
    if bucket is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        yield f"vault.bucket = {_shown(bucket)}: a bucket's name is 3 to 63 lower-case letters, digits, '.' and '-'"
    for place, value in (
        ("vault.kms_key_arn", _text(vault, "kms_key_arn")),
        ("notifications.topic_arn", _text(_table(raw, "notifications"), "topic_arn")),
        ("network.efs_access_point_arn", _text(network, "efs_access_point_arn")),
    ):
        if value is not None and not value.startswith("arn:"):
            yield f"{place} = {_shown(value)}: has to be an ARN, beginning with arn:"
    emails = _table(raw, "notifications").get("email")
    for address in emails if isinstance(emails, list) else []:
        if isinstance(address, str) and not re.fullmatch(r"[^@\s]+@[^@\s]+", address):
            yield f"notifications.email: {_shown(address)} is no address"
    if network.get("vpc_id") and not network.get("subnet_ids"):
        yield "network.vpc_id: has no effect without network.subnet_ids; name the subnets too"
    if not network.get("vpc_id"):
        for key in ("subnet_ids", "security_group_ids", "efs_access_point_arn"):
            if network.get(key):
                yield f"network.{key}: has no effect without network.vpc_id; name the VPC too"
