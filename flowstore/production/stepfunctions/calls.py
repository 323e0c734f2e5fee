"""Calls of boto3, whose errors become messages of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowstore.errors import FlowstoreError, NotFound
from flowstore.text import safe

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

_MISSING = frozenset(
    {
        "StateMachineDoesNotExist", "ExecutionDoesNotExist", "ResourceNotFoundException", "ResourceNotFound",
        "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist",
    }
)  # fmt: skip
_REFUSED = frozenset({"InvalidToken", "TaskDoesNotExist", "TaskTimedOut"})
_DENIED = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "AuthorizationError"}
)
_UNKNOWN_KEY = frozenset(
    {
        "UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "SignatureDoesNotMatch",
        "InvalidSignatureException", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature",
        "MissingAuthenticationToken",
    }
)  # fmt: skip
_THROTTLED = frozenset(
    {
        "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestThrottled",
        "RequestLimitExceeded", "SlowDown",
    }
)  # fmt: skip
_HINTS = {
    "StateMachineDeleting": "it is still being deleted. Try again in a few minutes.",
    "StateMachineAlreadyExists": "there is another one of this name. Choose another name with --name.",
    "AWS.SimpleQueueService.QueueDeletedRecently": "it was deleted less than a minute ago. Try again in a minute.",
    "QueueDeletedRecently": "it was deleted less than a minute ago. Try again in a minute.",
}


class AwsError(FlowstoreError):
    """AWS did not do what it was asked for."""


class AwsTransientError(AwsError):
    """AWS could not be reached, or was asked too often."""

    transient = True


class AwsDeniedError(AwsError):
    """The credentials do not allow a call.

    Attributes:
        operation: what AWS names it, such as DeleteMessage.
    """

    def __init__(self, text: str, operation: str = "") -> None:
        super().__init__(text)
        self.operation = operation


class AwsRefusedError(AwsError):
    """Step Functions no longer waits for an answer."""


class AwsMissingError(AwsError, NotFound):
    """The object of a call is not there."""


def call(what: str, method: Callable[..., Any], **given: Any) -> Any:
    """Call boto3; `what` says in an error what was to be done."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return method(**given)
    except ClientError as error:
        raise _refusal(what, error) from None
    except BotoCoreError as error:
        raise _trouble(what, error) from None


def _refusal(what: str, error: ClientError) -> AwsError:
    """Return the error for an answer of AWS that is a refusal."""
    code, text = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
    code = code.rpartition("#")[2]
    begin = f"AWS refused to {what}"
    if code in _MISSING:
        return AwsMissingError(f"{begin}: it is not there.")
    if code in _REFUSED:
        return AwsRefusedError(f"{begin}: it no longer waits for this answer.")
    if code in _DENIED:
        return AwsDeniedError(
            f"{begin}: your credentials do not allow it ({text}). What they need is printed by: "
            "python flow.py step-functions create --show-policies",
            error.operation_name,
        )
    if code in _UNKNOWN_KEY:
        return AwsError(f"{begin}: it does not accept your credentials ({code}: {text}). Renew them.")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _THROTTLED or status == 429:
        return AwsTransientError(f"{begin}: it is asked too often at the moment ({code}). Try again in a minute.")
    if code in _HINTS:
        return AwsError(f"{begin}: {_HINTS[code]}")
    kind = AwsTransientError if status >= 500 else AwsError
    return kind(f"{begin}: {safe(f'{code}: {text}')}")


def _trouble(what: str, error: BotoCoreError) -> AwsError:
    """Return the error for a call that AWS did not answer."""
    from botocore import exceptions

    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return AwsError(
            f"AWS cannot be asked to {what}: there are no credentials. Set $AWS_ACCESS_KEY_ID and "
            "$AWS_SECRET_ACCESS_KEY, or $AWS_PROFILE, or run: aws configure"
        )
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return AwsTransientError(f"AWS cannot be reached to {what}: {safe(str(error))}.")
    return AwsError(f"AWS cannot be asked to {what}: {safe(str(error))}.")
