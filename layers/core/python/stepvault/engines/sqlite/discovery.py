"""Which databases a source's path names, and what their objects are called."""

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote_from_bytes, unquote_to_bytes

from stepvault.engines.base import ObjectEntry, ObjectReader
from stepvault.engines.object_paths import SAME_AS_FOLDER, path_of
from stepvault.engines.sqlite.errors import from_system
from stepvault.engines.sqlite.session import COMPANIONS
from stepvault.errors import BackupTampered, SourceMissing

_SUFFIXES = {".db", ".db3", ".sqlite", ".sqlite3"}
_MAX_NAME = 500


@dataclass(frozen=True)
class Database:
    """One database of a source."""

    name: str
    """What messages call it: its path or URL, as text that any terminal and JSON can hold."""
    relative: str
    """Where below the source's fixed part it lies; its file name if the source names one file."""
    size: int


@dataclass(frozen=True)
class DatabaseFile(Database):
    """A database that is a file."""

    path: Path


@dataclass(frozen=True)
class DatabaseObject(Database):
    """A database that is an object in S3."""

    bucket: str
    entry: ObjectEntry
    buckets: ObjectReader


def is_pattern(path: str) -> bool:
    """Tell whether a source's path may name many databases."""
    return glob.has_magic(path)


def is_object(path: str) -> bool:
    """Tell whether a source's path names objects in S3."""
    return path.startswith("s3://")


def find_files(path: str) -> tuple[list[DatabaseFile], list[str]]:
    """List the databases that a path or pattern names, largest first, and warnings.

    A file with several names is listed once. SQLite's own companion files are not databases.

    Raises:
        SourceMissing, SourceDenied: nothing there, or folders that cannot be searched.
    """
    if not is_pattern(path):
        one = Path(path)
        try:
            size = one.stat().st_size
        except OSError as error:
            raise from_system(error, path) from error
        return [DatabaseFile(path, one.name, size, one)], []
    root = fixed_part(path)
    if not Path(root).is_dir():
        raise from_system(FileNotFoundError(), root)
    by_inode: dict[tuple[int, int], DatabaseFile] = {}
    warnings = []
    for file in _matching(path, root):
        try:
            status = Path(file).stat()
        except FileNotFoundError:  # gone since it was listed
            continue
        except OSError as error:
            raise from_system(error, shown(file)) from error
        first = by_inode.setdefault(
            (status.st_dev, status.st_ino),
            DatabaseFile(shown(file), os.path.relpath(file, root), status.st_size, Path(file)),
        )
        if first.path != Path(file):
            warnings.append(
                f"{shown(file)} is another name of {first.name}: stored once, under that one"
            )
    if not by_inode:
        raise _nothing(path)
    return sorted(by_inode.values(), key=lambda d: (-d.size, d.relative)), warnings


def find_objects(path: str, buckets: ObjectReader) -> list[DatabaseObject]:
    """List the S3 objects that ``s3://bucket/key`` or a pattern of keys names, largest first.

    Raises:
        SourceMissing, SourceDenied, SourceUnreachable: nothing there, or no access.
    """
    bucket, _, pattern = path.removeprefix("s3://").partition("/")
    if not bucket or not pattern:
        raise SourceMissing(f"{path} names no object", "write s3://bucket/key")
    if not is_pattern(pattern):
        entries = [e for e in buckets.list(bucket, pattern) if e.key == pattern]
        root = pattern.rpartition("/")[0]
    else:
        root = fixed_part(pattern).removeprefix(".")  # keys have no folder to start from
        matches = _regex(pattern).fullmatch
        entries = [e for e in buckets.list(bucket, root) if matches(e.key)]
    keys = {e.key for e in entries}
    below = {e.key: path_of(e.key.removeprefix(root).removeprefix("/")) for e in entries}
    folders = {str(above) for path in below.values() for above in PurePosixPath(path).parents}
    databases = [
        DatabaseObject(
            name=f"s3://{bucket}/{entry.key}",
            relative=_beside_folders(below[entry.key], folders),
            size=entry.size,
            bucket=bucket,
            entry=entry,
            buckets=buckets,
        )
        for entry in entries
        if not _is_companion(entry.key, keys)
    ]
    if not databases:
        raise _nothing(path)
    return sorted(databases, key=lambda d: (-d.size, d.relative))


def _beside_folders(path: str, folders: set[str]) -> str:
    """Return the path of an object; if other keys go on after its own, one in the folder of those."""
    return f"{path}/{SAME_AS_FOLDER}" if path in folders else path


def fixed_part(pattern: str) -> str:
    """Return the folder above the first wildcard of a pattern."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first]) or ("/" if pattern.startswith("/") else ".")


def object_names(databases: Sequence[Database], suffix: str) -> Iterator[str]:
    """Give each database a safe and unique object name: its path with odd characters replaced."""
    taken: set[str] = set()
    for database in databases:
        stem, extension = os.path.splitext(database.relative)
        plain = stem if extension.lower() in _SUFFIXES else database.relative
        parts = [re.sub(r"[^A-Za-z0-9_.=@+,-]", "_", part) for part in plain.split("/")]
        safe = "/".join(part if part[:1].isalnum() else f"_{part}" for part in parts)
        digest = hashlib.sha256(os.fsencode(database.relative)).hexdigest()[:16]
        if len(safe) > _MAX_NAME:
            safe = digest
        if f"{safe}{suffix}".casefold() in taken:
            safe = f"{safe}-{digest}"
        taken.add(f"{safe}{suffix}".casefold())
        yield f"{safe}{suffix}"


def shown(path: str | Path) -> str:
    r"""Return a path for people: bytes that are no text are written as ``\xff``."""
    return os.fsencode(path).decode(errors="backslashreplace")


def quoted(relative: str) -> str:
    """Return a path of any bytes as text that JSON can hold."""
    return quote_from_bytes(os.fsencode(relative), safe="/ ")


def unquoted(text: str) -> str:
    """Return the path that was quoted.

    Raises:
        BackupTampered: it would lead out of the folder that it is put under.
    """
    relative = os.fsdecode(unquote_to_bytes(text))
    parts = relative.split("/")
    if not relative or "\0" in relative or set(parts) & {"", ".", ".."}:
        raise BackupTampered(
            f"the backup says that a database lies at {relative!r}, outside of its folder",
            "do not restore this backup: its manifest was changed",
        )
    return relative


def _matching(pattern: str, root: str) -> Iterator[str]:
    """List the files below root that the pattern matches; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise from_system(error, shown(os.fsdecode(error.filename or root))) from error

    matches = _regex(pattern).fullmatch
    depth = None if "**" in pattern else pattern.count("/")
    for folder, folders, files in os.walk(root, onerror=refuse):
        if depth is not None and os.path.join(folder, "x").count("/") >= depth:
            folders.clear()
        folders.sort()
        here = set(files)
        for file in sorted(files):
            path = os.path.join(folder, file) if folder != "." else file
            if matches(path.removeprefix("./")) and not _is_companion(file, here):
                yield path


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(
        glob.translate(pattern.removeprefix("./"), recursive=True, include_hidden=True)
    )


def _is_companion(name: str, beside: set[str]) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in beside for end in COMPANIONS)


def _nothing(path: str) -> SourceMissing:
    return SourceMissing(
        f"no SQLite database at {path}", "check the path or the pattern ('**' crosses folders)"
    )
