"""One table says what an AWS error means; botocore's own service models say which errors there are."""

import json
from collections.abc import Iterator
from typing import get_args

import boto3
import botocore.exceptions
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader
from botocore.stub import Stubber

from stepvault import aws_errors, secrets, storage
from stepvault.aws_errors import AwsProblem, classify, problem
from stepvault.buckets import Buckets
from stepvault.errors import (
    Permanent,
    SourceBusy,
    SourceDenied,
    SourceUnreachable,
    StepvaultError,
    StorageUnavailable,
    Transient,
    VaultDenied,
)
from stepvault.settings import ConnectionSettings

SERVICES = ("s3", "secretsmanager", "ssm", "kms", "stepfunctions", "cloudformation", "sts", "sso")


def modelled() -> Iterator[tuple[str, str, int, bool]]:
    """Service, code, HTTP status and whether it is the server's fault, of every modelled error."""
    for service in SERVICES:
        shapes = Loader().load_service_model(service, "service-2")["shapes"]
        for name, shape in shapes.items():
            if shape.get("exception"):
                error = shape.get("error", {})
                fault = bool(shape.get("fault"))
                status = error.get("httpStatusCode", 500 if fault else 400)
                yield service, error.get("code", name), status, fault


ERRORS = sorted(modelled())


def test_every_error_that_aws_models_has_a_class() -> None:
    assert len(ERRORS) > 280
    for service, code, status, _ in ERRORS:
        assert classify(code, status)[0] in get_args(aws_errors.ErrorClass), (service, code)


def test_what_is_the_services_own_fault_is_tried_again() -> None:
    faults = [(service, code, status) for service, code, status, fault in ERRORS if fault]
    assert {"InternalServiceError", "KMSInternalException", "KeyUnavailableException"} <= {
        code for _, code, _ in faults
    }
    for service, code, status in faults:
        assert classify(code, status)[0] in ("transient", "throttled"), (service, code)


def test_the_name_of_a_code_and_its_class_agree() -> None:
    for service, code, status, _ in ERRORS:
        kind = classify(code, status)[0]
        if "Denied" in code or code.startswith("Unauthorized"):
            assert kind == "denied", (service, code)
        if "Throttl" in code or code.startswith("TooManyRequests"):
            assert kind == "throttled", (service, code)
        if ("NotFound" in code or "DoesNotExist" in code) and status < 500:
            assert kind == "missing", (service, code)
        if code.startswith("Invalid") and kind in ("transient", "throttled"):
            pytest.fail(f"{service} {code} would be tried again and again")


@pytest.mark.parametrize(
    ("code", "status", "kind", "hint"),
    [
        ("ExpiredToken", 400, "denied", "Sign in"),
        ("ExpiredTokenException", 400, "denied", "Sign in"),
        ("InvalidClientTokenId", 403, "denied", "Sign in"),
        ("RequestTimeTooSkewed", 403, "denied", "clock"),
        ("KMS.DisabledException", 400, "denied", "KMS key"),
        ("KMS.KMSInvalidStateException", 400, "denied", "deletion"),
        ("KMS.NotFoundException", 400, "denied", "KMS key"),
        ("DecryptionFailure", 400, "denied", "KMS key"),
        ("KMS.ThrottlingException", 400, "throttled", ""),
        ("KmsThrottlingException", 400, "throttled", ""),
        ("KMS.KMSInternalException", 500, "transient", ""),
        ("KMS.KeyUnavailableException", 500, "transient", ""),
        ("InvalidObjectState", 403, "refused", "archive"),
        ("PermanentRedirect", 301, "refused", "AWS_DEFAULT_REGION"),
        ("SlowDown", 503, "throttled", ""),
        ("RequestLimitExceeded", 503, "throttled", ""),
        ("ThrottlingException", 400, "throttled", ""),
        ("ExecutionLimitExceeded", 400, "throttled", ""),
        ("InternalServiceError", 500, "transient", ""),
        ("RequestTimeout", 400, "transient", ""),
        ("BadDigest", 400, "transient", ""),
        ("NoSuchUpload", 404, "transient", ""),
        ("OperationAborted", 409, "transient", ""),
        ("PreconditionFailed", 412, "changed", ""),
        ("ParameterNotFound", 400, "missing", ""),
        ("ExecutionDoesNotExist", 400, "missing", ""),
        ("NoSuchBucket", 404, "missing", ""),
        ("ValidationException", 400, "refused", ""),
        ("InvalidRequestException", 400, "refused", ""),
        ("403", None, "denied", ""),
        ("404", None, "missing", ""),
        ("412", None, "changed", ""),
        ("503", None, "transient", ""),
        ("SomethingNewException", 400, "refused", ""),
        ("SomethingNewException", 500, "transient", ""),
        ("SomethingNewException", None, "transient", ""),
    ],
)
def test_codes_that_matter(code: str, status: int | None, kind: str, hint: str) -> None:
    assert classify(code, status)[0] == kind
    assert hint in classify(code, status)[1]


def test_an_object_under_a_key_of_the_customers_own_is_final_and_says_why() -> None:
    said = "The object was stored using a form of Server Side Encryption. The correct parameters …"
    kind, hint = classify("InvalidRequest", 400, said)
    assert kind == "refused"
    assert "SSE-C" in hint
    assert classify("InvalidRequest", 400, "Missing required header") == ("refused", "")


def meaning(error: Exception) -> AwsProblem:
    found = problem(error)
    assert found is not None
    return found


def exceptions() -> list[type[BotoCoreError]]:
    known = vars(botocore.exceptions).values()
    return [e for e in known if isinstance(e, type) and issubclass(e, BotoCoreError)]


def test_what_botocore_raises_by_itself_is_final_where_settings_are_at_fault() -> None:
    found = {e.__name__: meaning(e.__new__(e)).kind for e in exceptions()}
    assert len(found) > 80
    transient = {name for name, kind in found.items() if kind == "transient"}
    assert {
        *("EndpointConnectionError", "ReadTimeoutError", "ConnectTimeoutError", "SSLError"),
        *("ConnectionClosedError", "IncompleteReadError", "ResponseStreamingError"),
        *("ProxyConnectionError", "ChecksumError", "FlexibleChecksumError"),
    } <= transient
    for word in ("Credential", "SSO", "Token", "Profile", "Region", "Config", "Login", "Invalid"):
        assert not {name for name in transient if word in name}, word
    assert meaning(ConnectionResetError(104, "Connection reset by peer")).kind == "transient"
    assert problem(KeyError("SecretString")) is None


def refused(code: str, status: int, message: str = "") -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},  # type: ignore[typeddict-item]
        },
        "Call",
    )


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("ThrottlingException", 400, SourceBusy),
        ("InternalServiceError", 500, SourceUnreachable),
        ("ServiceUnavailable", 503, SourceUnreachable),
        ("ExpiredTokenException", 400, SourceDenied),
        ("DecryptionFailure", 400, SourceDenied),
        ("InvalidRequestException", 400, SourceDenied),
        ("AccessDeniedException", 400, SourceDenied),
    ],
)
def test_a_secret_is_read_again_only_when_that_can_help(
    code: str, status: int, expected: type[StepvaultError], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client(
        "secretsmanager", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    monkeypatch.setattr(boto3, "client", lambda *_, **__: client)
    with Stubber(client) as stub:
        stub.add_client_error("get_secret_value", code, "as they say", status)
        with pytest.raises(expected, match="prod/shop"):
            secrets.resolve(ConnectionSettings(secret="prod/shop"))


@pytest.mark.parametrize(
    ("code", "status", "message", "source", "vault"),
    [
        ("ExpiredToken", 400, "", Permanent, VaultDenied),
        ("KMS.DisabledException", 400, "", Permanent, VaultDenied),
        ("InvalidObjectState", 403, "", Permanent, VaultDenied),
        ("InvalidRequest", 400, "stored using a form of Encryption", Permanent, VaultDenied),
        ("SlowDown", 503, "", Transient, StorageUnavailable),
        ("InternalError", 500, "", Transient, StorageUnavailable),
        ("NoSuchUpload", 404, "", Transient, StorageUnavailable),
    ],
)
def test_s3_is_asked_again_only_when_that_can_help(
    code: str, status: int, message: str, source: type, vault: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client(
        "s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    monkeypatch.setattr(storage, "client", lambda: client)
    with Stubber(client) as stub:
        stub.add_client_error("get_object", code, message, status)
        with pytest.raises(source, match="s3://photos/cat"):
            list(Buckets().read("photos", "cat"))
    with pytest.raises(vault), storage.vault_errors("vault"):
        raise refused(code, status, message)


def test_the_services_words_come_without_a_full_stop_and_json_safe() -> None:
    found = meaning(refused("ValidationException", 400, "No such thing. "))
    assert (found.operation, found.message) == ("Call", "No such thing")
    assert json.dumps(found)
