"""Which databases a source's path names, and what lies there besides."""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from stepvault.engines.base import ObjectEntry, ObjectReader
from stepvault.engines.object_paths import SAME_AS_FOLDER, path_of
from stepvault.engines.sqlite.errors import from_system, reading
from stepvault.engines.sqlite.paths import PARTIAL, is_pattern, shown, split_pattern
from stepvault.engines.sqlite.patterns import Exclusion, Pattern, State
from stepvault.engines.sqlite.session import COMPANIONS
from stepvault.engines.sqlite.snapshot import check_is_database, head_of
from stepvault.errors import Permanent, SourceCorrupt, SourceMissing, SourceUnsupported

_HEAD = 4_096


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

    def head(self) -> bytes | None:
        """Read the file's first bytes; None if it is being backed up as a database already."""
        with reading(self.name):
            return head_of(self.path, self.name)


@dataclass(frozen=True)
class DatabaseObject(Database):
    """A database that is an object in S3."""

    bucket: str
    entry: ObjectEntry
    buckets: ObjectReader

    def head(self) -> bytes:
        """Read the object's first bytes."""
        part = (0, min(_HEAD, self.size))
        pieces = self.buckets.read(self.bucket, self.entry.key, self.entry.etag, part)
        return next(iter(pieces), b"") if self.size else b""


@dataclass
class Found:
    """What a source's path names."""

    databases: Sequence[DatabaseFile | DatabaseObject] = ()
    """Largest first."""
    warnings: list[str] = field(default_factory=list)
    left_out: int = 0
    """Files that the pattern matches and that are not backed up."""

    def leave_out(self, name: str, why: str) -> None:
        """Note a file or folder that is not backed up though the pattern matches it."""
        self.left_out += 1
        self.warnings.append(f"{name} {why}: not backed up; name it in exclude if that is right")


def find_files(path: str, exclude: Sequence[str] = ()) -> Found:
    """List the files that a path or pattern names.

    A file with several names is listed once. SQLite's own companion files are not databases.

    Raises:
        SourceMissing, SourceDenied: nothing there, or folders that cannot be searched.
    """
    if not is_pattern(path):
        one = Path(path)
        with reading(shown(path)):
            size = one.stat().st_size
        return Found([DatabaseFile(shown(path), one.name, size, one)])
    root, below = split_pattern(path)
    with reading(shown(root)):
        Path(root).stat()
    found = Found()
    by_inode: dict[tuple[int, int], DatabaseFile] = {}
    for relative in _walk(root, Pattern(below), Exclusion(exclude), found):
        file = Path(root, relative)
        try:
            status = file.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise from_system(error, shown(file)) from error
            if file.is_symlink():  # else it is gone since it was listed
                found.leave_out(shown(file), f"is a link to nothing, {shown(file.readlink())}")
            continue
        first = by_inode.setdefault(
            (status.st_dev, status.st_ino),
            DatabaseFile(shown(file), relative, status.st_size, file),
        )
        if first.relative != relative:
            found.warnings.append(
                f"{shown(file)} is another name of {first.name}: stored once, under that one"
            )
    if not by_inode:
        raise _nothing(path, exclude, found)
    found.databases = _largest_first(by_inode.values())
    return found


def find_objects(path: str, buckets: ObjectReader, exclude: Sequence[str] = ()) -> Found:
    """List the S3 objects that ``s3://bucket/key`` or a pattern of keys names.

    Raises:
        SourceMissing, SourceDenied, SourceUnreachable: nothing there, or no access.
    """
    bucket, _, key = path.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise SourceMissing(f"{path} names no object", "write s3://bucket/key")
    if not is_pattern(key):
        entries = [e for e in buckets.list(bucket, key) if e.key == key]
        root = key.rpartition("/")[0]
    else:
        root, _ = split_pattern(key)
        root = root.removeprefix(".")  # keys have no folder to start from
        pattern, exclusion = Pattern(key), Exclusion(exclude)
        entries = [
            e
            for e in buckets.list(bucket, root)
            if pattern.matches(e.key) and not exclusion.excludes_below(_below(e.key, root))
        ]
    keys = {e.key for e in entries}
    below = {e.key: path_of(_below(e.key, root)) for e in entries}
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
        raise _nothing(path, exclude, Found())
    return Found(_largest_first(databases))


def leave_out_others(found: Found) -> None:
    """Leave out of what a pattern named all that is not a database, with a warning each.

    Raises:
        SourceCorrupt, SourceUnsupported: none of it is a database.
    """
    databases: list[DatabaseFile | DatabaseObject] = []
    refused: Permanent | None = None
    for database in found.databases:
        try:
            head = database.head()
            if head is not None:
                check_is_database(head, database.size, database.name)
        except (SourceCorrupt, SourceUnsupported) as error:
            refused = refused or error
            found.left_out += 1
            found.warnings.append(
                f"{error.message}: not backed up; name it in exclude if that is right"
            )
        else:
            databases.append(database)
    if refused and not databases:
        raise refused
    found.databases = databases


def _largest_first(
    databases: Iterable[DatabaseFile | DatabaseObject],
) -> list[DatabaseFile | DatabaseObject]:
    return sorted(databases, key=lambda d: (-d.size, d.relative))


def _below(key: str, root: str) -> str:
    return key.removeprefix(root).removeprefix("/")


def _beside_folders(path: str, folders: set[str]) -> str:
    """Return the path of an object; if other keys go on after its own, one in the folder of those."""
    return f"{path}/{SAME_AS_FOLDER}" if path in folders else path


def _walk(root: str, pattern: Pattern, exclusion: Exclusion, found: Found) -> Iterator[str]:
    """List the files below root that match, in order; enter no links and no excluded folders."""
    pending: list[tuple[str, State]] = [("", pattern.start)]
    while pending:
        folder, state = pending.pop()
        entries = _entries(os.path.join(root, folder))
        names = {entry.name for entry in entries}
        folders: list[tuple[str, State]] = []
        for entry in entries:
            relative = f"{folder}/{entry.name}" if folder else entry.name
            after = pattern.enter(state, entry.name)
            is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
            if not after or exclusion.excludes(relative, folder=is_folder):
                continue
            if not is_folder:
                if pattern.is_match(after) and not _is_ours(entry.name, names):
                    yield relative
            elif entry.is_symlink():
                found.leave_out(shown(entry.path), "is a link to a folder, which is not followed")
            else:
                if pattern.is_match(after) and not pattern.any_name:
                    found.leave_out(shown(entry.path), "is a folder, not a database")
                if pattern.may_match_below(after):
                    folders.append((relative, after))
        pending += reversed(folders)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with closing(os.scandir(folder)) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise from_system(error, shown(folder)) from error


def _is_ours(name: str, beside: set[str]) -> bool:
    """Tell whether a file belongs to a database beside it, or to a restore under way."""
    return name.startswith(PARTIAL) or _is_companion(name, beside)


def _is_companion(name: str, beside: set[str]) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in beside for end in COMPANIONS)


def _nothing(path: str, exclude: Sequence[str], found: Found) -> SourceMissing:
    left_out = f" ({'; '.join(found.warnings[:3])})" if found.warnings else ""
    but = f" but what exclude names ({', '.join(exclude)})" if exclude else ""
    return SourceMissing(
        f"no SQLite database at {path}{but}{left_out}",
        "check the path or the pattern ('**' crosses folders)",
    )
