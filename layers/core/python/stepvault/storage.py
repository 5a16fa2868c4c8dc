"""The S3 client and what its errors mean. Only multipart, catalog and buckets use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, cast

from stepvault.errors import StorageUnavailable, VaultDenied, VaultMissing

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_DENIED = {
    "AccessDenied", "Forbidden", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "ExpiredToken", "KMS.DisabledException", "KMSAccessDeniedException",
}  # fmt: skip
MISSING_KEY = {"NoSuchKey", "404", "NotFound"}


@cache
def client() -> "S3Client":
    """One S3 client per process, made at first use.

    From botocore: boto3's own modules, its transfer manager most of all, add a tenth of a second
    to a cold start and nothing that is used here.
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
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 6},
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
    except BotoCoreError as error:
        raise StorageUnavailable(
            f"S3 cannot be reached for {bucket!r}: {error}",
            "Check the network: a function in a VPC needs an S3 gateway endpoint",
        ) from error
