"""The S3 client and what its errors mean. Only multipart, catalog and buckets use it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, cast

from stepvault.aws_errors import AwsProblem, error_code, translated
from stepvault.deadline import Deadline
from stepvault.errors import (
    OutOfTime,
    StepvaultError,
    StorageUnavailable,
    VaultDenied,
    VaultMissing,
)

__all__ = ["MISSING_KEY", "client", "error_code", "etag", "vault_errors"]

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MISSING_KEY = {"NoSuchKey", "404", "NotFound"}
#: A conditional write was refused: the object is not as it was expected, or is being written.
CONFLICT = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


#: (seconds left, seconds per read, attempts): what a request may take in the time that is left.
#: All attempts and the pauses between them (1, 2, 4, … seconds at most) fit into it.
_HURRY = [(130, 25, 4), (45, 8, 4), (20, 4, 3), (6, 2, 2), (0, 1, 1)]
_READ_TIMEOUT, _ATTEMPTS = 60, 7


@cache
def client() -> "S3Client":
    """Return the process's S3 client, made at first use, for requests without a deadline."""
    return _make(_READ_TIMEOUT, _ATTEMPTS)


def client_for(deadline: Deadline) -> "S3Client":
    """Return an S3 client whose requests end, answered or not, before the deadline passes.

    Raises:
        OutOfTime: the deadline has passed.
    """
    left = deadline.remaining()
    if left >= (_READ_TIMEOUT + 10) * _ATTEMPTS:
        return client()
    if left <= 0:
        raise OutOfTime(f"The time was up after {deadline.elapsed():,.0f} s: S3 was not asked")
    read_timeout, attempts = next((r, a) for seconds, r, a in _HURRY if left >= seconds)
    with _making:
        return _hurried(client(), read_timeout, attempts)


_making = threading.Lock()


@cache
def _hurried(_usual: "S3Client", read_timeout: int, attempts: int) -> "S3Client":
    """Make the client once for as long as the usual one is the same."""
    return _make(read_timeout, attempts)


def _make(read_timeout: int, attempts: int) -> "S3Client":
    """Make a client with botocore alone.

    boto3's own modules, most of all its transfer manager, add a tenth of a second to a cold start
    and nothing that is used here.
    """
    import botocore.loaders
    import botocore.session
    from botocore.config import Config

    class OnlyS3(botocore.loaders.Loader):
        """To know what services there are, botocore's own looks into 400 folders, twice."""

        def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002
            return ["s3"]

    session = botocore.session.get_session()
    session.register_component("data_loader", OnlyS3())
    client = session.create_client(
        "s3",
        config=Config(
            connect_timeout=min(10, read_timeout),
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=64,
            # Part checksums are ours (multipart.py); none is computed twice.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"payload_signing_enabled": False},
            tcp_keepalive=True,
        ),
    )
    return cast("S3Client", client)


def etag(header: str | None) -> str | None:
    """Return an ETag as we keep it: without the quotes, None if the storage gives none."""
    return (header or "").strip('"') or None


def cut_off_errors() -> tuple[type[Exception], ...]:
    """Return what is raised where a connection breaks inside the body of an answer."""
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    return OSError, IncompleteReadError, ResponseStreamingError


@contextmanager
def vault_errors(bucket: str) -> Iterator[None]:
    """Turn AWS's errors about the vault into ours.

    Raises:
        VaultMissing, VaultDenied, StorageUnavailable: with the bucket's name and a next step.
    """

    def ours(problem: AwsProblem) -> StepvaultError:
        call = f"{problem.operation} ({problem.code})"
        match problem.kind:
            case "missing" if problem.code == "NoSuchBucket":
                return VaultMissing(
                    f"The vault bucket {bucket!r} does not exist",
                    "Deploy the stack again, or name the right bucket",
                )
            case "unset" | "denied" if not problem.operation:
                return VaultDenied(
                    f"No AWS credentials to open the vault bucket {bucket!r}: {problem.message}",
                    problem.hint,
                )
            case "denied" | "refused":
                return VaultDenied(
                    f"The vault bucket {bucket!r} refuses {call}",
                    problem.hint or "Check the role's S3 and KMS permissions and the bucket policy",
                )
            case _ if problem.operation:
                # Also an upload that somebody else aborted: another attempt may do.
                return StorageUnavailable(
                    f"S3 did not take {problem.operation} on {bucket!r} ({problem.code})",
                    "The unit is tried again; if it stays so, see the S3 health page and the bucket",
                )
            case _:
                return StorageUnavailable(
                    f"S3 cannot be reached for {bucket!r}: {problem.message}",
                    "Check the network: a function in a VPC needs an S3 gateway endpoint",
                )

    with translated(ours):
        yield
