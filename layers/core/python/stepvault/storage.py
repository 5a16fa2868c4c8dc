"""The S3 client and what its errors mean. Only multipart, catalog and buckets use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, cast

from stepvault.aws_errors import AwsProblem, error_code, translated
from stepvault.errors import StepvaultError, StorageUnavailable, VaultDenied, VaultMissing

__all__ = ["MISSING_KEY", "client", "error_code", "etag", "vault_errors"]

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

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


def etag(told: str | None) -> str | None:
    """An ETag as we keep it: without the quotes, None if the storage tells none."""
    return (told or "").strip('"') or None


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
