"""S3 buckets as sources, for engines that know no AWS."""

from collections.abc import Iterator
from contextlib import contextmanager

from stepvault import storage
from stepvault.aws_errors import AwsProblem, translated
from stepvault.deadline import Deadline
from stepvault.engines.base import ObjectEntry
from stepvault.errors import (
    SourceBusy,
    SourceChanged,
    SourceDenied,
    SourceMissing,
    SourceUnreachable,
    StepvaultError,
)

_CHUNK = 1 << 20


class Buckets:
    """``engines.base.ObjectReader`` over botocore.

    Args:
        deadline: no request takes longer than this allows.
    """

    def __init__(self, deadline: Deadline | None = None) -> None:
        self._deadline = deadline or Deadline()

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectEntry]:
        """Yield every object under the prefix, in key order."""
        with _source_errors(bucket, prefix):
            pages = (
                storage.client_for(self._deadline)
                .get_paginator("list_objects_v2")
                .paginate(Bucket=bucket, Prefix=prefix)
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    yield ObjectEntry(
                        entry["Key"],
                        entry["Size"],
                        entry["ETag"],
                        entry["LastModified"].timestamp(),
                    )

    def read(
        self, bucket: str, key: str, etag: str | None = None, part: tuple[int, int] | None = None
    ) -> Iterator[bytes]:
        """Yield the object's bytes, or those from one offset up to another.

        Raises:
            SourceChanged: its ETag is no longer the one given.
        """
        asked = {"IfMatch": etag} if etag else {}
        if part:
            asked["Range"] = f"bytes={part[0]}-{part[1] - 1}"
        with _source_errors(bucket, key):
            client = storage.client_for(self._deadline)
            body = client.get_object(Bucket=bucket, Key=key, **asked)["Body"]  # type: ignore[arg-type]
            yield from body.iter_chunks(_CHUNK)


@contextmanager
def _source_errors(bucket: str, key: str) -> Iterator[None]:
    where = f"s3://{bucket}/{key}"

    def ours(problem: AwsProblem) -> StepvaultError:
        match problem.kind:
            case "missing":
                return SourceMissing(f"{where} does not exist", "Check the source's path")
            case "changed":
                return SourceChanged(f"{where} was replaced while the backup ran")
            case "denied" | "refused" | "unset":
                return SourceDenied(
                    f"{where} may not be read ({problem.code})",
                    problem.hint or "Check the bucket's policy and its KMS key's",
                )
            case "throttled":
                return SourceBusy(f"{where} cannot be read now ({problem.code})")
            case "transient":
                return SourceUnreachable(f"{where} cannot be read: {problem.message}")

    with translated(ours):
        yield
