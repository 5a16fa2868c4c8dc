"""What an error of an AWS service means for us: the only place that reads botocore's errors. Pure.

Every service names its errors in its own way, and several say the same thing. Here each becomes
one of a few classes, with a hint where the code itself tells what to do. The rooms that call AWS
turn the class into one of our errors, with the name of the secret, bucket or stack.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from stepvault.errors import StepvaultError

ErrorClass = Literal[
    "denied",  # credentials, permission or encryption key: final until somebody changes it
    "missing",  # the thing that the call names does not exist
    "changed",  # a condition of the call (If-Match, If-None-Match) does not hold
    "refused",  # the service will answer the same call in the same way: final
    "unset",  # this machine's AWS settings (profile, region) are incomplete
    "throttled",  # too many calls: another attempt may succeed
    "transient",  # the service or the network fails: another attempt may succeed
]


class AwsProblem(NamedTuple):
    """One error of an AWS call."""

    kind: ErrorClass
    code: str
    """The service's code, or the name of botocore's exception class."""
    operation: str
    """Name of the API operation; empty where the call did not reach the service."""
    message: str
    """The service's or botocore's own words, without a final full stop."""
    hint: str
    """What to do, where the code alone tells; else empty."""


_SIGN_IN = "Sign in again ('aws sso login'), or set AWS_PROFILE"
_CLOCK = "Set this machine's clock: AWS accepts signatures of the last minutes only"
_KMS_KEY = "Enable the KMS key (or cancel its deletion), and allow this role to use it"
_ARCHIVED = "Restore the object from its archive class first (aws s3api restore-object)"
_CUSTOMER_KEY = "Store it without SSE-C: a key that only the client has cannot be used here"
_REGION = "Set AWS_DEFAULT_REGION to the region that it is in"

#: Class, hint and the codes (see ``_normalised``) that have them. A code that is not here goes by
#: its name and its HTTP status.
_TABLE: tuple[tuple[ErrorClass, str, str], ...] = (
    ("denied", "", "accessdenied forbidden unauthorized unauthorizedoperation notauthorized"),
    ("denied", "", "allaccessdisabled accountproblem optinrequired subscriptionrequired"),
    ("denied", "", "kmsaccessdenied opsitemaccessdenied"),
    ("denied", _SIGN_IN, "expiredtoken tokenrefreshrequired invalidtoken invalidclienttokenid"),
    ("denied", _SIGN_IN, "unrecognizedclient invalidaccesskeyid missingauthenticationtoken"),
    ("denied", _SIGN_IN, "signaturedoesnotmatch invalidsignature incompletesignature"),
    ("denied", _SIGN_IN, "authfailure requestexpired invalididentitytoken expiredtradeintoken"),
    ("denied", _CLOCK, "requesttimetooskewed"),
    ("denied", _KMS_KEY, "disabled kmsdisabled kmsinvalidstate invalidkeyid decryptionfailure"),
    ("denied", _KMS_KEY, "encryptionfailure invalidkeyusage incorrectkey invalidciphertext"),
    ("refused", _ARCHIVED, "invalidobjectstate objectnotinactivetier"),
    ("refused", _REGION, "permanentredirect authorizationheadermalformed"),
    ("refused", _REGION, "illegallocationconstraint"),
    ("missing", "", "nosuchkey nosuchbucket nosuchversion notfound resourcenotfound"),
    ("changed", "", "preconditionfailed conditionalcheckfailed"),
    ("throttled", "", "throttling throttled requestthrottled kmsthrottling slowdown"),
    ("throttled", "", "toomanyrequests requestlimitexceeded bandwidthlimitexceeded"),
    ("throttled", "", "provisionedthroughputexceeded executionlimitexceeded"),
    # Somebody else's call is under way or came in between, or bytes were lost on the way.
    ("transient", "", "operationaborted conditionalrequestconflict conflict nosuchupload"),
    ("transient", "", "invalidpart invalidpartorder requesttimeout incompletebody baddigest"),
    ("transient", "", "xamzcontentchecksummismatch xamzcontentsha256mismatch internal"),
    ("transient", "", "internalfailure internalservice internalserver serviceunavailable"),
    ("transient", "", "kmsinternal dependencytimeout keyunavailable idpcommunication"),
    ("transient", "", "operationinprogress resourceinuse statemachinedeleting"),
)
_BY_CODE = {code: (kind, hint) for kind, hint, codes in _TABLE for code in codes.split()}


#: botocore's own exceptions; a class that is not named here goes by its base class.
_BY_CLASS: dict[str, tuple[ErrorClass, str]] = {
    "HTTPClientError": ("transient", ""),
    "ConnectionError": ("transient", ""),
    "IncompleteReadError": ("transient", ""),
    "ChecksumError": ("transient", ""),
    "FlexibleChecksumError": ("transient", ""),
    "MetadataRetrievalError": ("transient", ""),
    "CapacityNotAvailableError": ("transient", ""),
    "NoCredentialsError": ("denied", _SIGN_IN),
    "PartialCredentialsError": ("denied", _SIGN_IN),
    "CredentialRetrievalError": ("denied", _SIGN_IN),
    "TokenRetrievalError": ("denied", _SIGN_IN),
    "NoAuthTokenError": ("denied", _SIGN_IN),
    "SSOError": ("denied", _SIGN_IN),
    "LoginError": ("denied", _SIGN_IN),
    "RefreshWithMFAUnsupportedError": ("denied", _SIGN_IN),
    "ParamValidationError": ("refused", ""),
    "NoRegionError": ("unset", "Set AWS_DEFAULT_REGION, or the region of your AWS profile"),
    "ProfileNotFound": ("unset", "Set AWS_PROFILE to one that 'aws configure list-profiles' names"),
    "BotoCoreError": ("unset", "Correct this machine's AWS settings (AWS_…, ~/.aws/config)"),
    "ResponseParserError": ("transient", "Look for a proxy between here and AWS"),
    "OSError": ("transient", ""),
}


def classify(code: str, status: int | None = None, message: str = "") -> tuple[ErrorClass, str]:
    """Return the class and hint of a service's error code.

    Args:
        code: as the service gives it; an answer without a body has the HTTP status as its code.
        status: HTTP status of the answer.
        message: the service's words; a few codes are told apart only by them.
    """
    name = _normalised(code)
    if name == "invalidrequest" and "encryption" in message.lower():
        return "refused", _CUSTOMER_KEY
    if code.startswith("KMS.") and name == "notfound":  # the key of an object, which is there
        return "denied", _KMS_KEY
    if (known := _BY_CODE.get(name)) is not None:
        return known
    if re.search("notfound|doesnotexist|nosuch", name):
        return "missing", ""
    return _by_status(int(code) if code.isdecimal() else status), ""


def _normalised(code: str) -> str:
    """Return one spelling of what services write in several: KMS.DisabledException, ExpiredToken."""
    last = re.split(r"[.#]", code)[-1]
    return re.sub(r"(exception|error)$", "", last.lower())


def _by_status(status: int | None) -> ErrorClass:
    """Return what an HTTP status means; without one, another attempt may succeed."""
    match status:
        case 401 | 403:
            return "denied"
        case 404 | 410:
            return "missing"
        case 412:
            return "changed"
        case 429:
            return "throttled"
        case 408 | 409 | None:
            return "transient"
        case _:
            return "refused" if status < 500 else "transient"


def problem(error: Exception) -> AwsProblem | None:
    """Tell what an error of botocore or of the network means; None for any other error."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        names = [cls.__name__ for cls in type(error).__mro__]
        known = next((_BY_CLASS[name] for name in names if name in _BY_CLASS), None)
        return known and AwsProblem(known[0], names[0], "", str(error).rstrip(". "), known[1])
    code, message = error_code(error), str(response.get("Error", {}).get("Message") or "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    kind, hint = classify(code, status, message)
    operation = str(getattr(error, "operation_name", ""))
    return AwsProblem(kind, code, operation, message.rstrip(". "), hint)


def error_code(error: Exception) -> str:
    """Return the service's own code of a botocore ClientError, or ``""``."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@contextmanager
def translated(ours: Callable[[AwsProblem], StepvaultError]) -> Iterator[None]:
    """Turn AWS's errors within the block into the one that ``ours`` makes of each."""
    try:
        yield
    except Exception as error:
        if (meaning := problem(error)) is None:
            raise
        raise ours(meaning) from error
