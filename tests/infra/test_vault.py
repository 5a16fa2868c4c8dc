"""The vault bucket."""

from tests.infra.synth import Template, states


def test_the_vault_is_encrypted_with_a_key_that_rotates(everything: Template) -> None:
    bucket = everything.vault
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    (key,) = everything.of_type("AWS::KMS::Key")

    assert rule["BucketKeyEnabled"] is True
    assert rule["ServerSideEncryptionByDefault"] == {
        "SSEAlgorithm": "aws:kms",
        "KMSMasterKeyID": f"<{key}.Arn>",
    }
    assert everything.only("AWS::KMS::Key")["EnableKeyRotation"] is True


def test_the_vault_is_private_and_speaks_tls_only(everything: Template) -> None:
    bucket = everything.vault
    policies = everything.of_type("AWS::S3::BucketPolicy").values()

    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(policies) == len(everything.of_type("AWS::S3::Bucket"))
    for policy in policies:
        statements = policy["PolicyDocument"]["Statement"]
        assert {s["Effect"] for s in statements} == {"Deny"}
        assert {"Bool": {"aws:SecureTransport": "false"}} in [s["Condition"] for s in statements]


def test_the_vault_outlives_the_stack_and_its_own_mistakes(everything: Template) -> None:
    bucket = everything.vault
    policies = {
        r["DeletionPolicy"]
        for r in everything.resources.values()
        if r["Type"] in {"AWS::S3::Bucket", "AWS::KMS::Key"}
    }

    # RetainExceptOnCreate: what a failed first deployment made goes again.
    assert policies == {"RetainExceptOnCreate", "Retain"}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    retention = bucket["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]
    assert retention == {"Mode": "GOVERNANCE", "Days": 30}


def test_what_nobody_needs_goes_by_itself(everything: Template) -> None:
    rules = {r["Id"]: r for r in everything.vault["LifecycleConfiguration"]["Rules"]}

    assert rules["Tidy"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert rules["Tidy"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 14}
    assert rules["Cold"]["Prefix"] == "backups/"
    assert rules["Cold"]["Transitions"] == [{"StorageClass": "GLACIER_IR", "TransitionInDays": 90}]
    # Nothing but versions, uploads and Step Functions' own records may ever expire.
    assert [i for i, r in rules.items() if "ExpirationInDays" in r] == ["MapResults"]
    assert rules["MapResults"]["Prefix"] == "runs/map-results/"


def test_without_settings_there_is_no_lock_and_no_cold_class(minimal: Template) -> None:
    bucket = minimal.vault

    assert "ObjectLockConfiguration" not in bucket
    assert {r["Id"] for r in bucket["LifecycleConfiguration"]["Rules"]} == {"Tidy", "MapResults"}


def test_results_of_maps_go_to_a_bucket_without_lock(everything: Template) -> None:
    """S3 takes an object into a locked bucket only with a checksum that Step Functions may not send."""
    (results,) = [
        name
        for name, bucket in everything.of_type("AWS::S3::Bucket").items()
        if "ObjectLockConfiguration" not in bucket
    ]
    writers = {
        state["ResultWriter"]["Parameters"]["Bucket"]
        for machine in ("backup", "restore")
        for _, state in states(everything.machine(machine))
        if "ResultWriter" in state
    }

    assert writers == {f"<{results}>"}


def test_a_vault_of_an_earlier_stack_is_taken_over_as_it_is(adopted: Template) -> None:
    assert not adopted.of_type("AWS::S3::Bucket")
    assert not adopted.of_type("AWS::KMS::Key")
    assert adopted.outputs["VaultName"]["Value"] == "acme-stepvault"
    seal = adopted.functions["seal"]["Role"]
    assert adopted.may(
        seal, "s3:PutObject", "arn:<AWS::Partition>:s3:::acme-stepvault/runs/x/summary.json"
    )
    assert adopted.may(
        seal, "kms:Decrypt", "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef"
    )
