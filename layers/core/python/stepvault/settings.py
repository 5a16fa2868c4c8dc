"""What a person writes: the models of ``stepvault.toml``. No I/O.

They refuse unknown keys and say what each key means; ``config.py`` turns their complaints into
messages a person can act on.
"""

from functools import cache
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from stepvault.keys import SAFE_NAME

Name = Annotated[str, StringConstraints(pattern=f"^{SAFE_NAME.pattern}$")]
Kind = Literal["databases", "files"]
Tls = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]


class Settings(BaseModel):
    """Base of everything a person writes: unknown keys are mistakes."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        defer_build=True,  # a function meets few of them: built at first use
    )


class Retention(Settings):
    """Which sealed backups of a source to keep.

    Both rules hold together: a backup is removed only when neither keeps it, and the newest sealed
    backup always stays.
    """

    keep_last: int | None = Field(None, ge=1, le=10_000)
    """Keep this many of the newest sealed backups."""
    max_age_days: int | None = Field(None, ge=1, le=36_500)
    """Keep sealed backups younger than this many days."""


class ConnectionSettings(Settings):
    """Where a database is and where its credentials are; never the credentials themselves."""

    secret: str | None = None
    """Secrets Manager secret (name or ARN) in the RDS JSON shape: host, port, username, password."""
    parameter: str | None = None
    """SSM parameter (SecureString) holding the same JSON or a URL."""
    url_env: str | None = None
    """Environment variable holding a URL, for use at a terminal."""
    iam: bool = False
    """RDS IAM database authentication; needs host, port and user."""
    host: str | None = None
    """Host name or address; wins over the secret's."""
    port: int | None = Field(None, ge=1, le=65_535)
    """Port; wins over the secret's."""
    user: str | None = None
    """Account to connect as; wins over the secret's."""
    database: str | None = None
    """Database to connect to; wins over the secret's."""
    tls: Tls | None = None
    """TLS mode in libpq's terms; verify-full with IAM, else prefer."""
    tls_ca: str | None = None
    """File with the certificate authority; the RDS bundle of the layer when left out."""

    @model_validator(mode="after")
    def _one_credential(self) -> "ConnectionSettings":
        given = [k for k in ("secret", "parameter", "url_env") if getattr(self, k)]
        given += ["iam"] if self.iam else []
        if len(given) != 1:
            named = " and ".join(given) or "none"
            raise ValueError(
                f"give exactly one of secret, parameter, url_env or iam; found {named}"
            )
        if self.iam and not (self.host and self.port and self.user):
            raise ValueError("iam needs host, port and user beside it")
        return self


class SourceSettings(Settings):
    """What every source has, and what its engine says of itself."""

    other_names: ClassVar[tuple[str, ...]] = ()
    """What other tools and people call this kind of source."""
    kind: ClassVar[Kind] = "databases"
    """The Map that its units run in."""
    is_server: ClassVar[bool] = False
    """A server: reached by a connection, restored to one. Else it is restored to a path."""
    restores_to_bucket: ClassVar[bool] = False
    """Whether it can be restored to ``s3://bucket/prefix``, too."""
    can_build_on_parent: ClassVar[bool] = False
    """Whether a backup may refer to objects of an earlier one, its parent."""
    can_leave_out_kinds: ClassVar[bool] = False
    """Whether a restore knows kinds of things that ``--without`` may name."""

    name: Name
    """Unique; becomes a folder in the vault and a metric dimension."""
    optional: bool = False
    """A source that is not there is skipped with a warning instead of failing the run."""
    compression_level: int = Field(2, ge=1, le=19)
    """zstd level; 2, and 1 for server databases, as small as level 3 of the zstd command."""
    retention: Retention | None = None
    """Overrides the common retention for this source."""

    @property
    def builds_on_parent(self) -> bool:
        """Whether the next backup of this source may refer to objects of an earlier one."""
        return self.can_build_on_parent


class DatabaseSettings(SourceSettings):
    """What the server databases share."""

    is_server: ClassVar[bool] = True
    can_leave_out_kinds: ClassVar[bool] = True

    compression_level: int = Field(1, ge=1, le=19)
    """zstd level."""
    connection: ConnectionSettings
    connections: int | None = Field(None, ge=1, le=32)
    """Parallel connections; limits.connections when left out."""
    tables: list[str] = []
    """Only these tables (``schema.table``, ``*`` and ``?`` as wildcards)."""
    exclude_tables: list[str] = []
    """All but these tables; wins over ``tables``."""
    with_schema: bool = Field(True, alias="schema")
    """Back up definitions."""
    with_data: bool = Field(True, alias="data")
    """Back up rows."""

    @model_validator(mode="after")
    def _something(self) -> "DatabaseSettings":
        if not (self.with_schema or self.with_data):
            raise ValueError("schema and data are both false: there is nothing to back up")
        return self


class PostgresSource(DatabaseSettings):
    """A PostgreSQL database."""

    other_names: ClassVar[tuple[str, ...]] = ("postgresql", "pg", "aurora-postgresql")

    engine: Literal["postgres"]
    globals: bool = True
    """Also write roles and tablespaces as globals.sql, where the user may read them."""
    large_objects: bool = True
    """Back up large objects, too; pg_dump reads them one by one, over one connection."""
    split_above_mb: int = Field(512, ge=1, le=1_000_000)
    """Tables larger than this many MiB are read in ranges by several connections."""


class MySqlSource(DatabaseSettings):
    """A MySQL or MariaDB database, or all databases of a server."""

    other_names: ClassVar[tuple[str, ...]] = ("mariadb", "aurora-mysql")

    engine: Literal["mysql"]
    databases: list[str] = []
    """Databases to back up (wildcards); the connection's database, else all but the system's."""
    split_above_mb: int = Field(512, ge=1, le=1_000_000)
    """Tables larger than this many MiB are read in primary-key ranges by several connections."""
    definer: Literal["keep", "strip"] | str = "keep"
    """Definers of views, routines, triggers and events: keep, strip, or map to user@host."""
    non_transactional: Literal["warn", "refuse"] = "warn"
    """What to do about tables (MyISAM, Aria) that no snapshot covers."""
    accounts: Literal["without-passwords", "with-passwords", "none"] = "without-passwords"
    """Also write users, roles and grants as accounts.grants, where the user may read them."""

    @field_validator("definer")
    @classmethod
    def _account(cls, definer: str) -> str:
        if definer not in ("keep", "strip") and "@" not in definer:
            raise ValueError("has to be keep, strip or an account such as backup@localhost")
        return definer


class SqliteSource(SourceSettings):
    """One SQLite file, or all that a pattern names."""

    other_names: ClassVar[tuple[str, ...]] = ("sqlite3",)

    engine: Literal["sqlite"]
    path: str
    """The database file; may hold ``*`` and ``**`` to name many small ones."""
    format: Literal["file", "sql"] = "file"
    """file keeps the pages as they are; sql writes a portable script."""
    exclude: list[str] = []
    """Files to leave out of what the wildcards of ``path`` match: patterns as in .gitignore, below
    the folder above the first wildcard, without exceptions (``!``)."""

    @model_validator(mode="after")
    def _exclude_from_a_pattern(self) -> "SqliteSource":
        if self.exclude and not any(wildcard in self.path for wildcard in "*?["):
            raise ValueError(f"exclude needs a path with wildcards, and {self.path} has none")
        for pattern in self.exclude:
            if pattern.startswith("!"):
                raise ValueError(f"exclude knows no exceptions: {pattern}")
        return self


class FilesSource(SourceSettings):
    """A directory tree (EFS, local)."""

    other_names: ClassVar[tuple[str, ...]] = ("directory", "folder", "efs", "s3")
    kind: ClassVar[Kind] = "files"
    restores_to_bucket: ClassVar[bool] = True
    can_build_on_parent: ClassVar[bool] = True

    engine: Literal["files"]
    path: str
    """The directory, or s3://bucket/prefix."""
    include: list[str] = []
    """Only what matches one of these globs (gitignore's meaning)."""
    exclude: list[str] = []
    """All but what matches one of these globs; wins over ``include``."""
    max_file_size: int | None = Field(None, ge=0)
    """Skip and count files larger than this many bytes."""
    follow_symlinks: bool = False
    """Store what a link points to instead of the link."""
    preserve_metadata: bool = True
    """Keep mode, owner, mtime in nanoseconds and extended attributes."""
    allow_unreadable: bool = False
    """Report files that cannot be read instead of failing."""
    incremental: bool = True
    """Unchanged files point at the pack of an earlier backup that holds them."""
    compare: Literal["metadata", "content"] = "metadata"
    """How to tell an unchanged file: size, mtime, ctime and inode, or its content's hash."""

    @property
    def builds_on_parent(self) -> bool:
        """Whether unchanged files are left in the packs of earlier backups."""
        return self.incremental


#: Any source; the engines are those of this union (``engine_models``).
Source = Annotated[
    PostgresSource | MySqlSource | SqliteSource | FilesSource, Field(discriminator="engine")
]


@cache
def engine_models() -> dict[str, type[SourceSettings]]:
    """Return the settings model of each engine, by the engine's name."""
    models = get_args(get_args(Source)[0])
    return {get_args(model.model_fields["engine"].annotation)[0]: model for model in models}


class TargetSettings(Settings):
    """A place that restores may write to: a database server or a directory."""

    name: Name
    """Unique; what ``--to`` takes."""
    connection: ConnectionSettings | None = None
    """A database server, with an account that may create."""
    path: str | None = None
    """A directory that the functions can write; every source gets a folder of its own there."""

    @property
    def bucket(self) -> str | None:
        """The path, if it is ``s3://bucket/prefix``."""
        return self.path if self.path and self.path.startswith("s3://") else None

    @model_validator(mode="after")
    def _one_place(self) -> "TargetSettings":
        if (self.connection is None) == (self.path is None):
            raise ValueError("give exactly one of connection or path")
        return self


class Schedule(Settings):
    """When to start a run."""

    name: Name
    expression: Annotated[str, StringConstraints(pattern=r"^(rate|cron|at)\(.+\)$")] = Field(
        alias="when"
    )
    """EventBridge Scheduler expression: rate(1 day), cron(0 3 * * ? *)."""
    timezone: str = "UTC"
    """IANA name, such as Europe/Berlin."""
    sources: list[Name] = []
    """Names of sources; all when left out."""
    window_hours: int = Field(6, ge=0, le=168)
    """Alarm when a run that was due has sealed nothing within this many hours (0: no alarm)."""


class Memory(Settings):
    """Lambda memory in MB by engine; 1,769 MB is one vCPU. New accounts get at most 3,008 MB."""

    postgres: int = Field(3008, ge=512, le=10_240)
    mysql: int = Field(3008, ge=512, le=10_240)
    sqlite: int = Field(1769, ge=512, le=10_240)
    files: int = Field(1769, ge=512, le=10_240)


class Scratch(Settings):
    """Lambda scratch space (``/tmp``) in MB by engine; what exceeds 512 MB costs a little."""

    postgres: int = Field(512, ge=512, le=10_240)
    """Large objects, and the definitions of very large schemas, pass through it."""
    mysql: int = Field(512, ge=512, le=10_240)
    sqlite: int = Field(512, ge=512, le=10_240)
    files: int = Field(512, ge=512, le=10_240)
    """The plan of a tree of some million entries is sorted in it."""


class Limits(Settings):
    """How much at a time."""

    databases: int = Field(3, ge=1, le=1_000)
    """Database units at a time."""
    files: int = Field(5, ge=1, le=1_000)
    """File units at a time."""
    connections: int = Field(3, ge=1, le=32)
    """Connections per database source."""
    batch_bytes: int = Field(1 << 30, ge=1 << 20)
    """A file batch holds at most this many bytes, unless a single file is larger."""
    batch_files: int = Field(50_000, ge=1)
    """A file batch holds at most this many files."""
    memory: Memory = Memory()
    ephemeral_mb: Scratch = Scratch()
    max_hours: int = Field(24, ge=1, le=8_760)
    """Stop a run after this many hours, and ring."""


class Notifications(Settings):
    """Who hears about a run."""

    email: list[str] = []
    """Addresses subscribed to the alarm topic."""
    topic_arn: str | None = None
    """An SNS topic of yours to use instead."""


class Network(Settings):
    """Where the functions run. Left out: outside any VPC."""

    vpc_id: str | None = None
    """The VPC that the sources are in."""
    subnet_ids: list[str] = []
    """Its subnets, with a way to S3, Secrets Manager and Step Functions."""
    security_group_ids: list[str] = []
    """Security groups that the databases let in; the stack makes one when left out."""
    efs_access_point_arn: str | None = None
    """EFS access point to mount, read as the user it names."""
    efs_mount: Annotated[str, StringConstraints(pattern=r"^/mnt/[A-Za-z0-9_.-]+$")] = "/mnt/efs"
    """Where the functions see it."""


class Vault(Settings):
    """The bucket."""

    bucket: str | None = None
    """Name of the bucket to create; CloudFormation picks one when left out."""
    existing: bool = False
    """Take over the vault of an earlier stack, as it is, instead of creating one."""
    kms_key_arn: str | None = None
    """Key of yours; the stack makes one when left out."""
    object_lock_days: int | None = Field(None, ge=1)
    """Object Lock in governance mode for this many days."""
    cold_after_days: int | None = Field(None, ge=30)
    """Move backups to Glacier Instant Retrieval after this many days."""
    noncurrent_days: int = Field(7, ge=1)
    """Keep deleted versions this long, as a way back from a mistake."""

    @model_validator(mode="after")
    def _known(self) -> "Vault":
        if self.existing and not (self.bucket and self.kms_key_arn):
            raise ValueError(
                "existing needs bucket and kms_key_arn beside it; "
                "'aws s3api get-bucket-encryption --bucket NAME' names the key"
            )
        return self


class Config(Settings):
    """The whole of stepvault.toml."""

    sources: list[Source] = Field(min_length=1)
    """What to back up."""
    targets: list[TargetSettings] = []
    """Where ``stepvault restore --to`` may restore to by name."""
    schedules: list[Schedule] = []
    """When; none: only when somebody starts a run."""
    retention: Retention = Retention()
    """What to keep of every source that says nothing else; everything when left out."""
    limits: Limits = Limits()
    notifications: Notifications = Notifications()
    network: Network = Network()
    vault: Vault = Vault()
    log_retention_days: int = Field(90, ge=1)
    """Keep the functions' logs this many days."""
    architecture: Literal["arm64", "x86_64"] = "arm64"
    """Processor of the functions; arm64 costs less."""

    def source(self, name: str) -> Source | None:
        """Return the source of that name, or None."""
        return next((s for s in self.sources if s.name == name), None)
