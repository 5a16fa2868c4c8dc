"""Paths of a tree: bytes relative to its root, separated by ``/``; the root itself is ``.``."""

import re

ROOT = b"."

#: How the name begins of the folder, in the target, in which a restore makes files before it moves
#: them into place; what follows tells one restore from another.
STAGING = b".stepvault-restore-"
_DIGEST = re.compile(rb"[0-9a-f]{8,16}")


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory's path and the name in it."""
    parent, _, name = path.rpartition(b"/")
    return parent or ROOT, name


def join(parent: bytes, name: bytes) -> bytes:
    """Return the path of that name in that directory."""
    return name if parent == ROOT else parent + b"/" + name


def walk_key(path: bytes) -> bytes:
    """Return a key that sorts paths as a walk meets them: a directory, then all within, then its next sibling."""
    return b"" if path == ROOT else path.replace(b"/", b"\0")


def show(path: bytes) -> str:
    """Return the path for a message: one printable line, whatever its bytes."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def is_staging(name: bytes) -> bool:
    """Return whether a restore gives that name to the folder in which it makes files."""
    return name.startswith(STAGING) and _DIGEST.fullmatch(name, len(STAGING)) is not None
