"""The vault: the one bucket that all backups live in, and its key."""

from typing import Any

from aws_cdk import Acknowledgment, Duration, RemovalPolicy, Validations
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra import settings
from infra.roles import Allow

#: Below this a move to a colder class costs more than it saves.
WORTH_MOVING = 128 * 1024


EVERY_RUN = "objects of all sources and runs, known only at run time"
#: Backups outlive the stack; what a failed first deployment made goes, or the next one would find
#: its name taken.
KEEP = RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
PRIVATE: dict[str, Any] = {
    "block_public_access": s3.BlockPublicAccess.BLOCK_ALL,
    "object_ownership": s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
    "enforce_ssl": True,
    "minimum_tls_version": 1.2,
}
#: Step Functions' own record of each Map; receipts hold all that Stepvault reads.
MAP_RESULTS = s3.LifecycleRule(
    id="MapResults", prefix="runs/map-results/", expiration=Duration.days(30)
)


class Vault(Construct):
    """Encrypted, versioned, private, TLS only; outlives the stack."""

    def __init__(self, scope: Construct, name: str, chosen: settings.Vault) -> None:
        super().__init__(scope, name)
        self.key: kms.IKey = (
            kms.Key.from_key_arn(self, "Key", chosen.kms_key_arn)
            if chosen.kms_key_arn
            else kms.Key(
                self,
                "Key",
                description="Encrypts Stepvault's backups; without it they cannot be read",
                enable_key_rotation=True,
                removal_policy=KEEP,
            )
        )
        self.bucket: s3.IBucket = (
            s3.Bucket.from_bucket_attributes(
                self, "Bucket", bucket_name=chosen.bucket, encryption_key=self.key
            )
            if chosen.existing
            else self._made(chosen)
        )
        self.results: s3.IBucket = (
            self._results_bucket() if chosen.object_lock_days else self.bucket
        )
        """Where Step Functions writes the results of Maps."""

    def _made(self, chosen: settings.Vault) -> s3.Bucket:
        lock = chosen.object_lock_days
        bucket = s3.Bucket(
            self,
            "Bucket",
            bucket_name=chosen.bucket,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,
            versioned=True,
            object_lock_enabled=bool(lock) or None,
            object_lock_default_retention=(
                s3.ObjectLockRetention.governance(Duration.days(lock)) if lock else None
            ),
            removal_policy=KEEP,
            lifecycle_rules=_lifecycle(chosen),
            **PRIVATE,
        )
        _acknowledge_no_access_log(bucket)
        return bucket

    def _results_bucket(self) -> s3.Bucket:
        """Make a bucket without Object Lock.

        S3 takes an object into a locked bucket only with a checksum, and no document says that
        Step Functions sends one with the results of a Map.
        """
        bucket = s3.Bucket(
            self,
            "Results",
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,
            removal_policy=RemovalPolicy.RETAIN,
            lifecycle_rules=[MAP_RESULTS],
            **PRIVATE,
        )
        _acknowledge_no_access_log(bucket)
        return bucket

    def read(self, *patterns: str) -> list[Allow]:
        """Read objects whose keys match, and tell a missing object from a forbidden one."""
        return [
            Allow(["s3:ListBucket"], [self.bucket.bucket_arn]),
            Allow(["s3:GetObject"], self._objects(patterns), EVERY_RUN),
            Allow(["kms:Decrypt"], [self.key.key_arn]),
        ]

    def write(self, *patterns: str) -> list[Allow]:
        """Write objects whose keys match, in parts or at once."""
        return [
            Allow(
                ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
                self._objects(patterns),
                EVERY_RUN,
            ),
            # An upload in parts reads its own parts back when it completes.
            Allow(["kms:GenerateDataKey", "kms:Decrypt"], [self.key.key_arn]),
        ]

    def abort(self, *patterns: str) -> list[Allow]:
        """Find and abort uploads that a killed function, or a lost answer, left behind."""
        return [
            # IAM knows no prefix for this action.
            Allow(["s3:ListBucketMultipartUploads"], [self.bucket.bucket_arn]),
            Allow(["s3:AbortMultipartUpload"], self._objects(patterns), EVERY_RUN),
        ]

    def delete(self, *patterns: str) -> list[Allow]:
        """Hide objects behind a delete marker; their versions stay for ``noncurrent_days``."""
        return [Allow(["s3:DeleteObject"], self._objects(patterns), EVERY_RUN)]

    def _objects(self, patterns: tuple[str, ...]) -> list[str]:
        return [self.bucket.arn_for_objects(p) for p in patterns]


def _acknowledge_no_access_log(bucket: s3.Bucket) -> None:
    Validations.of(bucket).acknowledge(
        Acknowledgment(
            id="AwsSolutions-S1",
            reason="Access logs need a bucket of their own, which would need the same care; "
            "CloudTrail data events serve those who want a record",
        )
    )


def _lifecycle(chosen: settings.Vault) -> list[s3.LifecycleRule]:
    rules = [
        s3.LifecycleRule(
            id="Tidy",
            abort_incomplete_multipart_upload_after=Duration.days(1),
            noncurrent_version_expiration=Duration.days(chosen.noncurrent_days),
            expired_object_delete_marker=True,
        ),
        MAP_RESULTS,
    ]
    if chosen.cold_after_days:
        rules.append(
            s3.LifecycleRule(
                id="Cold",
                prefix="backups/",
                object_size_greater_than=WORTH_MOVING,
                transitions=[
                    s3.Transition(
                        storage_class=s3.StorageClass.GLACIER_INSTANT_RETRIEVAL,
                        transition_after=Duration.days(chosen.cold_after_days),
                    )
                ],
            )
        )
    return rules
