"""What is stored and handed on: units, receipts, manifests, summaries, tasks. No I/O.

Stored records carry ``format_version`` and ignore keys they do not know, so that an older tool
reads a newer backup.
"""

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from stepvault.errors import ConfigInvalid
from stepvault.settings import Source

FORMAT_VERSION = 1


class Record(BaseModel):
    """Base of everything stored: read by tools older and newer than the writer."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


def parse[R: Record](model: type[R], event: Any) -> R:
    """Read a function's event as a record.

    Raises:
        ConfigInvalid: naming each field that is wrong.
    """
    try:
        return model.model_validate(event)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the event'}: {e['msg']}" for e in error.errors()
        )
        raise ConfigInvalid(
            f"The event is not a {model.__name__}: {wrong}", "See events/ for valid ones"
        ) from error


class Execution(Record):
    """The Step Functions execution, from its context object."""

    name: str
    started: AwareDatetime


class Unit(Record):
    """One function invocation's worth of one source; a line of the plan."""

    run_id: str
    id: str
    source: Source
    listing: str | None = None
    """Key of the batch's list of paths; None means the whole source."""
    estimated_bytes: int = 0
    estimated_files: int = 0
    unplanned: bool = False
    """The source's planning was cut off: there is nothing to back up yet, and the unit fails."""


class Statistics(Record):
    """Durations of one stage's operations, in seconds."""

    count: int = 0
    min: float = 0.0
    mean: float = 0.0
    median: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Stage(Record):
    """One stage of the path over a whole unit: bytes out of it and where its time went."""

    bytes: int = 0
    busy: float = 0.0
    """Seconds of work, summed over threads."""
    waiting: float = 0.0
    """Seconds the chain stood still for this stage, summed over streams."""
    operations: Statistics = Statistics()


class Profile(Record):
    """Where a unit's time went."""

    read: Stage = Stage()
    compress: Stage = Stage()
    upload: Stage = Stage()
    bottleneck: Literal["source", "cpu", "network"] = "source"
    peak_memory: int = 0
    """Bytes of resident memory at the highest sample."""
    throttled: int = 0
    """Times the memory governor held uploads back."""


class StoredObject(Record):
    """One object of a backup and how to prove it whole."""

    name: str
    """Path below the backup's data folder."""
    run_id: str | None = None
    """Run whose data folder holds it; None: the run the record belongs to."""
    raw_bytes: int
    stored_bytes: int
    raw_sha256: str
    stored_sha256: str
    etag: str | None = None
    """S3's ETag of it, without quotes: tells at no cost whether it has been written over since."""
    encoding: Literal["zstd", "none"]
    """How the stored bytes hold the raw ones."""
    parts: int = 1
    seconds: float = 0.0
    rows: int | None = None
    files: int | None = None
    facts: dict[str, Any] = {}
    """What the engine wants to know at restore (table, content hash, range)."""


class Receipt(Record):
    """Proof that a unit was stored whole."""

    format_version: int = FORMAT_VERSION
    tool_version: str
    run_id: str
    source: str
    engine: str
    unit: str
    started: AwareDatetime
    ended: AwareDatetime
    objects: list[StoredObject]
    facts: dict[str, Any] = {}
    """What the engine knows of the source: server version, snapshot, position."""
    warnings: list[str] = []
    skipped: str | None = None
    """Why an optional source was not backed up; then there are no objects."""
    profile: Profile = Profile()

    @property
    def raw_bytes(self) -> int:
        """Bytes read from the source."""
        return sum(o.raw_bytes for o in self.objects)

    @property
    def stored_bytes(self) -> int:
        """Bytes in the vault."""
        return sum(o.stored_bytes for o in self.objects)


class Failure(Record):
    """Why a unit failed, for the person who looks at the run."""

    source: str
    unit: str
    error: str
    """Class name from errors.py."""
    message: str
    at: AwareDatetime
    final: bool = False
    """A redrive does not help: only a new run does."""


class UnitFacts(Record):
    """What a manifest keeps of one unit's receipt beside its objects."""

    unit: str
    facts: dict[str, Any] = {}
    started: AwareDatetime
    ended: AwareDatetime
    bottleneck: str = "source"


class Manifest(Record):
    """The object that makes a backup exist: everything needed to verify and restore it."""

    format_version: int = FORMAT_VERSION
    tool_version: str
    run_id: str
    source: str
    engine: str
    started: AwareDatetime
    sealed: AwareDatetime
    config: dict[str, Any]
    """The source's settings as they were."""
    config_sha256: str
    raw_bytes: int
    stored_bytes: int
    rows: int = 0
    files: int = 0
    units: list[UnitFacts]
    objects: list[StoredObject]
    warnings: list[str] = []


class SourceResult(Record):
    """One source's line in a run's summary."""

    source: str
    engine: str
    status: Literal["sealed", "failed", "skipped"]
    units: int
    units_done: int
    raw_bytes: int = 0
    stored_bytes: int = 0
    rows: int = 0
    files: int = 0
    bottleneck: str | None = None
    failures: list[Failure] = []
    warnings: list[str] = []
    unusual: str | None = None
    """How the size of a sealed backup is unlike that of those before it; None: it is like them."""


class Summary(Record):
    """What a run did."""

    format_version: int = FORMAT_VERSION
    tool_version: str
    run_id: str
    started: AwareDatetime
    ended: AwareDatetime
    schedule: str | None = None
    sources: list[SourceResult]


class RestoreTask(Record):
    """One function invocation's worth of a restore; a line of the restore plan.

    Tasks of stage ``before`` all end before the first of ``data`` starts, and those before
    ``after``; tasks of one stage run in parallel, in any order.
    """

    stage: Literal["before", "data", "after"]
    id: str
    objects: list[str] = []
    """Names of the stored objects the task needs."""
    arguments: dict[str, Any] = {}
    """The engine's own."""


class Unrestored(Record):
    """One thing of a backup that a restore could not put back, or was told to leave out."""

    kind: str
    """What it is, in the engine's words: table, view, foreign key, extension, file, …"""
    name: str
    """Its name as the source writes it: ``schema.table``, a path."""
    reason: str
    """Why, in the words of the server or the system; for what was left out on purpose, by which
    option."""
    statement: str = ""
    """What was tried, cut to some hundred characters; empty where there is none."""
    asked: bool = False
    """The person asked for it to be left out: no failure."""


class RestoreOptions(Record):
    """What a person may choose about a restore."""

    only: list[str] = []
    """Tables or path globs; everything when empty."""
    overwrite: bool = False
    """Write over what is already there."""
    database: str | None = None
    """Name of the database to restore into, when not the one the target names."""
    keep_going: bool = False
    """Put back all that can be, and report the rest, instead of stopping at the first failure."""
    without: list[str] = []
    """Kinds to leave out, in the engine's words (``tablespaces``, ``extension:postgis``)."""
    owner: Literal["keep", "none"] | str = "keep"
    """Who owns what is restored: as in the backup, the connecting user, or that role."""


class RestoreReport(Record):
    """What a restore by the state machine left out, or could not put back."""

    format_version: int = FORMAT_VERSION
    restore_id: str
    source: str
    run_id: str
    ended: AwareDatetime
    unrestored: list[Unrestored] = []
