"""The vault bucket."""

from tests.infra.synth import Template


def test_the_vault_is_encrypted_with_a_key_that_rotates(everything: Template) -> None:
    bucket = everything.only("AWS::S3::Bucket")
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    (key,) = everything.of_type("AWS::KMS::Key")

    assert rule["BucketKeyEnabled"] is True
    assert rule["ServerSideEncryptionByDefault"] == {
        "SSEAlgorithm": "aws:kms",
        "KMSMasterKeyID": f"<{key}.Arn>",
    }
    assert everything.only("AWS::KMS::Key")["EnableKeyRotation"] is True


def test_the_vault_is_private_and_speaks_tls_only(everything: Template) -> None:
    bucket = everything.only("AWS::S3::Bucket")
    policy = everything.only("AWS::S3::BucketPolicy")["PolicyDocument"]["Statement"]

    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert {s["Effect"] for s in policy} == {"Deny"}
    assert {"Bool": {"aws:SecureTransport": "false"}} in [s["Condition"] for s in policy]


def test_the_vault_outlives_the_stack_and_its_own_mistakes(everything: Template) -> None:
    bucket = everything.only("AWS::S3::Bucket")
    policies = {
        r["DeletionPolicy"]
        for r in everything.resources.values()
        if r["Type"] in {"AWS::S3::Bucket", "AWS::KMS::Key"}
    }

    assert policies == {"Retain"}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    retention = bucket["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]
    assert retention == {"Mode": "GOVERNANCE", "Days": 30}


def test_what_nobody_needs_goes_by_itself(everything: Template) -> None:
    rules = {
        r["Id"]: r for r in everything.only("AWS::S3::Bucket")["LifecycleConfiguration"]["Rules"]
    }

    assert rules["Tidy"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert rules["Tidy"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 14}
    assert rules["Cold"]["Prefix"] == "backups/"
    assert rules["Cold"]["Transitions"] == [{"StorageClass": "GLACIER_IR", "TransitionInDays": 90}]
    # Nothing but versions, uploads and Step Functions' own records may ever expire.
    assert [i for i, r in rules.items() if "ExpirationInDays" in r] == ["MapResults"]
    assert rules["MapResults"]["Prefix"] == "runs/map-results/"


def test_without_settings_there_is_no_lock_and_no_cold_class(minimal: Template) -> None:
    bucket = minimal.only("AWS::S3::Bucket")

    assert "ObjectLockConfiguration" not in bucket
    assert {r["Id"] for r in bucket["LifecycleConfiguration"]["Rules"]} == {"Tidy", "MapResults"}
