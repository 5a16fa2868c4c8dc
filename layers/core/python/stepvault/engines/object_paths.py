"""Keys of S3 objects as paths, for the engines that restore objects as files.

A key may hold what no path can. Such a segment gets a name that begins with a percent sign, and one
that really begins with a percent sign gets ``%25`` for it, so that no two keys become one path.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

SCHEME = "s3://"
_NO_NAMES = {"": "%2F", ".": "%2E", "..": "%2E%2E"}

#: What an object is called in the folder that its own key is, where other keys go on after it.
SAME_AS_FOLDER = "%"

#: Extended attribute of a pack's member that holds what an object has beside its bytes, as JSON.
PROPERTIES = b"user.stepvault.object"


def path_of(key: str) -> str:
    """Return the path for a key, both below the source's prefix."""
    return "/".join(_name_of(segment) for segment in key.split("/"))


def key_of(path: bytes) -> str:
    """Return the key whose path that is, both below the source's prefix."""
    text = path.decode("utf-8", "surrogatepass").removesuffix(f"/{SAME_AS_FOLDER}")
    return "/".join(_segment_of(name) for name in text.split("/"))


def _segment_of(name: str) -> str:
    segments = {name: segment for segment, name in _NO_NAMES.items()}
    return segments.get(name, re.sub("^%25", "%", name))


def as_attribute(properties: Mapping[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the extended attributes of a member for what an object has beside its bytes."""
    if not properties:
        return ()
    return ((PROPERTIES, json.dumps(dict(properties), sort_keys=True).encode()),)


def _name_of(segment: str) -> str:
    return _NO_NAMES.get(segment) or re.sub("^%", "%25", segment)


def as_in_key(path: bytes) -> bytes:
    """Return the path for patterns to match: percent signs as the key has them.

    What lies in a folder because its key is also that folder's is matched as the key.
    """
    return re.sub(rb"(^|/)%25", rb"\1%", path.removesuffix(b"/%"))


def is_bucket(path: str) -> bool:
    """Return whether a source's path names objects of a bucket."""
    return path.startswith(SCHEME)


def bucket_and_prefix(path: str) -> tuple[str, str]:
    """Return bucket and prefix of ``s3://bucket/prefix``; a prefix that is not empty ends in a slash."""
    bucket, _, prefix = path.removeprefix(SCHEME).partition("/")
    return bucket, f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
