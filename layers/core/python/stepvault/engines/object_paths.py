"""Keys of S3 objects as paths, for the engines that restore objects as files.

A key may hold what no path can. Such a segment gets a name that begins with a percent sign, and one
that really begins with a percent sign gets ``%25`` for it, so that no two keys become one path.
"""

import re

SCHEME = "s3://"
_NO_NAMES = {"": "%2F", ".": "%2E", "..": "%2E%2E"}

#: What an object is called in the folder that its own key is, where other keys go on after it.
SAME_AS_FOLDER = "%"


#: Extended attribute of a pack's member that holds what an object has beside its bytes, as JSON.
PROPERTIES = b"user.stepvault.object"


def path_of(key: str) -> str:
    """Return the path for a key, both below the source's prefix."""
    return "/".join(_name_of(segment) for segment in key.split("/"))


def _name_of(segment: str) -> str:
    return _NO_NAMES.get(segment) or re.sub("^%", "%25", segment)


def as_in_key(path: bytes) -> bytes:
    """Return the path with its percent signs as the key has them, for patterns to match."""
    return re.sub(rb"(^|/)%25", rb"\1%", path)


def is_bucket(path: str) -> bool:
    """Whether a source's path names objects of a bucket."""
    return path.startswith(SCHEME)


def bucket_and_prefix(path: str) -> tuple[str, str]:
    """Bucket and prefix of ``s3://bucket/prefix``; a prefix that is not empty ends in a slash."""
    bucket, _, prefix = path.removeprefix(SCHEME).partition("/")
    return bucket, f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
