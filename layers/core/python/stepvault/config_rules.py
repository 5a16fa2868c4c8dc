"""Rules of the configuration that no single model can see. Pure.

Names that refer to each other, time zones, values that AWS would refuse in the middle of a
deployment. They look at the raw mapping, so that they are reported beside what the models refuse.
"""

import difflib
import re
import zoneinfo
from collections.abc import Iterator
from functools import cache
from typing import Any

from stepvault import expressions
from stepvault.validation_messages import Location, label, shown, value_at

#: Days that CloudWatch Logs accepts; any other number fails in mid-deployment.
LOG_RETENTION_DAYS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731),
    *(1096, 1827, 2192, 2557, 2922, 3288, 3653),
)


def find(raw: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each rule that is broken."""
    yield from _control_characters(raw)
    for group in ("sources", "targets", "schedules"):
        yield from _twins(raw, group)
    for place, entry in _entries(raw, "sources"):
        yield from _source_mistakes(place, entry)
    for place, entry in _entries(raw, "targets"):
        yield from _connection_mistakes(f"{place}.connection", _table(entry, "connection"))
        if (path := _text(entry, "path")) is not None and not path.startswith("/"):
            yield f"{place}.path = {shown(path)}: has to be a folder's absolute path"
    names = [str(s.get("name")) for _, s in _entries(raw, "sources")]
    for place, entry in _entries(raw, "schedules"):
        yield from _schedule_mistakes(place, entry, names)
    yield from _deployment_mistakes(raw)


def _entries(raw: dict[str, Any], group: str) -> Iterator[tuple[str, dict[str, Any]]]:
    listed = raw.get(group)
    for i, entry in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(entry, dict):
            yield label(raw, (group, i)), entry


def _table(raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _text(raw: dict[str, Any], key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) else None


def _control_characters(raw: dict[str, Any], loc: Location = ()) -> Iterator[str]:
    """Text that no path, name or host can hold; a server or a system would cut it at a NUL."""
    here = value_at(raw, loc)
    if isinstance(here, str) and re.search(r"[\x00-\x1f\x7f]", here):
        yield f"{label(raw, loc)} = {shown(here)}: holds a control character; remove it"
    steps = here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
    for step in steps:
        yield from _control_characters(raw, (*loc, step))


def _twins(raw: dict[str, Any], group: str) -> Iterator[str]:
    listed = raw.get(group)
    where: dict[str, list[int]] = {}
    for i, entry in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            where.setdefault(entry["name"], []).append(i)
    for name, places in where.items():
        if len(places) > 1:
            both = " and ".join(f"{group}[{i}]" for i in places)
            yield f"{both}: both named {name!r}; give each a name of its own"


def _source_mistakes(place: str, source: dict[str, Any]) -> Iterator[str]:
    yield from _connection_mistakes(f"{place}.connection", _table(source, "connection"))
    yield from _path_mistakes(place, source)


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
            yield f"{place}.path = {shown(path)}: has to be s3://bucket/prefix"
    elif not path.startswith("/"):
        yield f"{place}.path = {shown(path)}: has to be absolute, such as /mnt/efs/{path or 'data'}, or s3://bucket/prefix"


def _schedule_mistakes(place: str, schedule: dict[str, Any], names: list[str]) -> Iterator[str]:
    when, zone = _text(schedule, "when"), _text(schedule, "timezone")
    if when and re.match(r"(rate|cron|at)\(.+\)$", when) and (problem := expressions.problem(when)):
        yield f"{place}.when = {shown(when)}: {problem}"
    zones = _zones()
    if zone is not None and zones and zone not in zones:
        near = difflib.get_close_matches(zone, zones, 1) or [
            z for z in sorted(zones) if z.rsplit("/", 1)[-1].lower() == zone.lower()
        ]
        hint = f"did you mean {near[0]}?" if near else "use an IANA name such as Europe/Berlin"
        yield f"{place}.timezone = {shown(zone)}: no such time zone; {hint}"
    wanted = schedule.get("sources")
    for name in wanted if isinstance(wanted, list) else []:
        if isinstance(name, str) and name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"sources: {', '.join(names) or 'none'}"
            yield f"{place}.sources: there is no source {shown(name)}; {hint}"


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
        yield f"vault.bucket = {shown(bucket)}: a bucket's name is 3 to 63 lower-case letters, digits, '.' and '-'"
    for place, value in (
        ("vault.kms_key_arn", _text(vault, "kms_key_arn")),
        ("notifications.topic_arn", _text(_table(raw, "notifications"), "topic_arn")),
        ("network.efs_access_point_arn", _text(network, "efs_access_point_arn")),
    ):
        if value is not None and not value.startswith("arn:"):
            yield f"{place} = {shown(value)}: has to be an ARN, beginning with arn:"
    emails = _table(raw, "notifications").get("email")
    for address in emails if isinstance(emails, list) else []:
        if isinstance(address, str) and not re.fullmatch(r"[^@\s]+@[^@\s]+", address):
            yield f"notifications.email: {shown(address)} is no address"
    if network.get("vpc_id") and not network.get("subnet_ids"):
        yield "network.vpc_id: has no effect without network.subnet_ids; name the subnets too"
    if not network.get("vpc_id"):
        for key in ("subnet_ids", "security_group_ids", "efs_access_point_arn"):
            if network.get(key):
                yield f"network.{key}: has no effect without network.vpc_id; name the VPC too"
