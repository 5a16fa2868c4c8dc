"""Paths of databases: as a source writes them, for people, for JSON, and as names of objects."""

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from stepvault.errors import BackupTampered

#: How the name of a database that is being restored begins; never backed up.
PARTIAL = ".stepvault-partial-"
_SUFFIXES = {".db", ".db3", ".sqlite", ".sqlite3"}
_MAX_NAME, _MAX_SEGMENT = 500, 200


def is_pattern(path: str) -> bool:
    """Tell whether a source's path may name many databases."""
    return glob.has_magic(path)


def is_object(path: str) -> bool:
    """Tell whether a source's path names objects in S3."""
    return path.startswith("s3://")


def split_pattern(pattern: str) -> tuple[str, str]:
    """Return the folder above the first wildcard, and the pattern below it."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    folder = "/".join(parts[:first]) or ("/" if pattern.startswith("/") else ".")
    return folder, "/".join(parts[first:])


def object_names(relatives: Iterable[str], suffix: str) -> Iterator[str]:
    """Give each database a safe and unique object name: its path with odd characters replaced.

    A digest takes the place of a path that is too long for a key, or for a file to download it to.
    """
    taken: set[str] = set()
    for relative in relatives:
        stem, extension = os.path.splitext(relative)
        plain = stem if extension.lower() in _SUFFIXES else relative
        parts = [re.sub(r"[^A-Za-z0-9_.=@+,-]", "_", part) for part in plain.split("/")]
        safe = "/".join(part if part[:1].isalnum() else f"_{part}" for part in parts)
        digest = hashlib.sha256(os.fsencode(relative)).hexdigest()[:16]
        if len(safe) > _MAX_NAME or max(map(len, safe.split("/"))) > _MAX_SEGMENT:
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
