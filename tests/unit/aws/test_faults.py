import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError

from agent_credits.aws.faults import may_pass


def answer(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": ""}}, "Publish")


@pytest.mark.parametrize(
    "error",
    [
        *map(answer, ("Throttled", "InternalError", "ServiceUnavailable", "KMSThrottling")),
        # An operator puts these right, and the same call then succeeds.
        *map(answer, ("AuthorizationError", "AccessDenied", "NotFound", "KMSDisabled")),
        answer("ACodeOfTheFuture"),
        ConnectTimeoutError(endpoint_url="sns"),
        NoCredentialsError(),
    ],
    ids=repr,
)
def test_a_fault_of_the_service_or_of_its_settings_may_pass(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        *map(answer, ("InvalidParameter", "ParameterValueInvalid", "ValidationException")),
        *map(answer, ("InvalidMessageContents", "InvalidParameterValue")),
        ValueError("the row is of a newer version"),
        ZeroDivisionError(),
    ],
    ids=repr,
)
def test_a_request_that_is_never_taken_and_a_bug_do_not_pass(error: Exception) -> None:
    assert not may_pass(error)
