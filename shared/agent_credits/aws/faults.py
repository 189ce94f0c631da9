"""Which faults of an AWS call may pass, and which are about the request itself."""

from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

# Codes of SNS and SQS for a request whose content they will never take. What is not listed may
# pass, also a missing permission or a disabled key: a retry loses nothing.
ABOUT_THE_REQUEST: Final = frozenset(
    {
        *("InvalidParameter", "ParameterValueInvalid", "ValidationException"),
        *("InvalidMessageContents", "InvalidParameterValue"),
    }
)


def may_pass(error: Exception) -> bool:
    """Tell whether the same call may succeed later; false for an error of our own code."""
    if isinstance(error, ClientError):
        return error.response["Error"]["Code"] not in ABOUT_THE_REQUEST
    return isinstance(error, BotoCoreError)
