"""What the stack needs to know of stepvault.toml, in the stack's own words.

Infrastructure and runtime never import each other. The runtime's own checker reads the file,
as a program; its JSON becomes the dataclasses below, and goes to the functions as it is.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class SettingsError(Exception):
    """The configuration cannot be used; the message is meant for a person, as it stands."""


@dataclass(frozen=True)
class Credentials:
    """Where the password of a server is, or the user that IAM lets in."""

    secret: str | None = None
    parameter: str | None = None
    iam_user: str | None = None


@dataclass(frozen=True)
class Place:
    """A source, or a target that restores write to."""

    name: str
    engine: str | None
    path: str | None
    credentials: Credentials

    @property
    def s3(self) -> tuple[str, str] | None:
        """``(bucket, prefix)`` of a source in S3."""
        if self.path is None or not self.path.startswith("s3://"):
            return None
        bucket, _, prefix = self.path.removeprefix("s3://").partition("/")
        return bucket, prefix.split("*", 1)[0]


@dataclass(frozen=True)
class Schedule:
    """When a run of which sources starts."""

    name: str
    when: str
    timezone: str
    sources: tuple[str, ...]
    window_hours: int

    @property
    def watched(self) -> bool:
        """Whether an alarm rings when a run is overdue; one that starts once only has none."""
        return self.window_hours > 0 and not self.when.startswith("at(")


@dataclass(frozen=True)
class Network:
    """Where the functions run."""

    vpc_id: str | None
    subnet_ids: tuple[str, ...]
    security_group_ids: tuple[str, ...]
    efs_access_point_arn: str | None
    efs_mount: str


@dataclass(frozen=True)
class Vault:
    """The bucket."""

    bucket: str | None
    existing: bool
    kms_key_arn: str | None
    object_lock_days: int | None
    cold_after_days: int | None
    noncurrent_days: int


@dataclass(frozen=True)
class Notifications:
    """Who hears of alarms."""

    email: tuple[str, ...]
    topic_arn: str | None


@dataclass(frozen=True)
class Settings:
    """All of it."""

    sources: tuple[Place, ...]
    targets: tuple[Place, ...]
    schedules: tuple[Schedule, ...]
    databases_at_a_time: int
    files_at_a_time: int
    memory: dict[str, int]
    """MB by engine."""
    scratch: dict[str, int]
    """MB of scratch space by engine."""
    max_hours: int
    """After so many hours a run is stopped."""
    notifications: Notifications
    network: Network
    vault: Vault
    log_retention_days: int
    architecture: str
    document: str
    """The whole configuration as the functions read it."""

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines of the sources, in the order of ``limits.memory``: databases first."""
        used = {s.engine for s in self.sources}
        return tuple(engine for engine in self.memory if engine in used)

    @property
    def database_engines(self) -> tuple[str, ...]:
        """Engines whose units run in the Map of databases."""
        return tuple(engine for engine in self.engines if engine != "files")


def load(config: Path) -> Settings:
    """Read the settings of that stepvault.toml, checked by the runtime.

    Raises:
        SettingsError: with every mistake in the file, as the checker words them.
    """
    checked = subprocess.run(
        [sys.executable, "-m", "stepvault.config", "check", "--json", str(config)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "layers" / "core" / "python")},
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode:
        raise SettingsError(checked.stderr.strip() or f"{config} could not be checked")
    return parse(checked.stdout)


def parse(document: str) -> Settings:
    """Read the settings from the checker's JSON."""
    raw = json.loads(document)
    return Settings(
        sources=tuple(_place(s) for s in raw["sources"]),
        targets=tuple(_place(t) for t in raw["targets"]),
        schedules=tuple(_pick(Schedule, s) for s in raw["schedules"]),
        databases_at_a_time=raw["limits"]["databases"],
        files_at_a_time=raw["limits"]["files"],
        memory=raw["limits"]["memory"],
        scratch=raw["limits"]["ephemeral_mb"],
        max_hours=raw["limits"]["max_hours"],
        notifications=_pick(Notifications, raw["notifications"]),
        network=_pick(Network, raw["network"]),
        vault=_pick(Vault, raw["vault"]),
        log_retention_days=raw["log_retention_days"],
        architecture=raw["architecture"],
        document=document,
    )


def _place(raw: dict[str, Any]) -> Place:
    given = raw.get("connection") or {}
    return Place(
        name=raw["name"],
        engine=raw.get("engine"),
        path=raw.get("path"),
        credentials=Credentials(
            secret=given.get("secret"),
            parameter=given.get("parameter"),
            iam_user=given.get("user") if given.get("iam") else None,
        ),
    )


def _pick[T](kind: type[T], raw: dict[str, Any]) -> T:
    """Fill the dataclass from the keys of its own names; lists become tuples."""
    values = {f.name: raw[f.name] for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
