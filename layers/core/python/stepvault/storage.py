"""The S3 client and what its errors mean. Only multipart, catalog and buckets use it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, cast

from stepvault.deadline import Deadline
from stepvault.errors import OutOfTime, StorageUnavailable, VaultDenied, VaultMissing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_DENIED = {
    "AccessDenied", "Forbidden", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "ExpiredToken", "KMS.DisabledException", "KMSAccessDeniedException",
}  # fmt: skip
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
    made = session.create_client(
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
    return cast("S3Client", made)


def error_code(error: Exception) -> str:
    """S3's own code of a botocore ClientError, or ``""``."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def etag(told: str | None) -> str | None:
    """An ETag as we keep it: without the quotes, None if the storage tells none."""
    return (told or "").strip('"') or None


@contextmanager
def vault_errors(bucket: str) -> Iterator[None]:
    """Turn botocore's errors about the vault into ours.

    Raises:
        VaultMissing, VaultDenied, StorageUnavailable: with the bucket's name and a next step.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if code == "NoSuchBucket":
            raise VaultMissing(
                f"The vault bucket {bucket!r} does not exist",
                "Deploy the stack again, or name the right bucket",
            ) from error
        if code in _DENIED:
            raise VaultDenied(
                f"The vault bucket {bucket!r} refuses {error.operation_name} ({code})",
                "Check the role's S3 and KMS permissions and the bucket policy",
            ) from error
        # Throttling, server errors, an upload that somebody else aborted: another attempt may do.
        raise StorageUnavailable(
            f"S3 did not take {error.operation_name} on {bucket!r} ({code})",
            "The unit is tried again; if it stays so, see the S3 health page and the bucket",
        ) from error
    except NoCredentialsError as error:
        raise VaultDenied(
            f"No AWS credentials to open the vault bucket {bucket!r}",
            "Set AWS_PROFILE, or sign in with 'aws sso login'",
        ) from error
    except ResponseParserError as error:
        raise StorageUnavailable(
            f"S3 sent an answer about {bucket!r} that was cut off or is no S3 answer",
            "The unit is tried again; if it stays so, look for a proxy between here and S3",
        ) from error
    except BotoCoreError as error:
        raise StorageUnavailable(
            f"S3 cannot be reached for {bucket!r}: {error}",
            "Check the network: a function in a VPC needs an S3 gateway endpoint",
        ) from error
