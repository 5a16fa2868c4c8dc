"""S3 buckets as sources, for engines that know no AWS."""

from collections.abc import Iterator
from contextlib import contextmanager

from stepvault import storage
from stepvault.deadline import Deadline
from stepvault.engines.base import ObjectEntry
from stepvault.errors import SourceChanged, SourceDenied, SourceMissing, SourceUnreachable

_CHUNK = 1 << 20


class Buckets:
    """``engines.base.ObjectReader`` over botocore.

    Args:
        deadline: no request takes longer than this allows.
    """

    def __init__(self, deadline: Deadline | None = None) -> None:
        self._deadline = deadline or Deadline()

    def list(self, bucket: str, prefix: str) -> Iterator[ObjectEntry]:
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
        asked = {"IfMatch": etag} if etag else {}
        if part:
            asked["Range"] = f"bytes={part[0]}-{part[1] - 1}"
        with _source_errors(bucket, key):
            client = storage.client_for(self._deadline)
            body = client.get_object(Bucket=bucket, Key=key, **asked)["Body"]  # type: ignore[arg-type]
            yield from body.iter_chunks(_CHUNK)


@contextmanager
def _source_errors(bucket: str, key: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    where = f"s3://{bucket}/{key}"
    try:
        yield
    except ClientError as error:
        code = storage.error_code(error)
        if code == "NoSuchBucket" or code in storage.MISSING_KEY:
            raise SourceMissing(f"{where} does not exist", "Check the source's path") from error
        if code in {"AccessDenied", "403"}:
            raise SourceDenied(
                f"{where} may not be read", "Check the bucket's policy and its KMS key's"
            ) from error
        if code in {"PreconditionFailed", "412"}:
            raise SourceChanged(f"{where} was replaced while the backup ran") from error
        raise SourceUnreachable(f"{where} cannot be read ({code})") from error
    except (BotoCoreError, OSError) as error:
        raise SourceUnreachable(f"{where} cannot be read: {error}") from error
