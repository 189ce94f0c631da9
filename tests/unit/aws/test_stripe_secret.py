"""The key is read on first use and cached for a minute; a placeholder is never used as a key."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.stub import Stubber

from agent_credits.aws.cached_secret import SECRET_TTL
from agent_credits.aws.stripe_secret import StripeSecret
from agent_credits.payments.port import PaymentUnavailable

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
SECRET_ID = "arn:aws:secretsmanager:us-east-1:000000000000:secret:stripe"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def secrets_manager() -> Iterator[Stubber]:
    """Gives the prepared answers in order, and fails the test on a call too many or too few."""
    client = boto3.client(
        "secretsmanager",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.fixture
def secret(secrets_manager: Stubber, clock: Clock) -> StripeSecret:
    return StripeSecret(secrets_manager.client, SECRET_ID, clock)


def holds(secrets_manager: Stubber, value: str) -> None:
    secrets_manager.add_response(
        "get_secret_value", {"SecretString": value}, {"SecretId": SECRET_ID}
    )


def test_the_key_is_cached_and_a_rotated_one_is_picked_up_in_time(secrets_manager, secret, clock):
    holds(secrets_manager, "sk_test_first")
    holds(secrets_manager, "rk_test_second")

    assert secret() == "sk_test_first"
    clock.now += SECRET_TTL - timedelta(seconds=1)
    assert secret() == "sk_test_first"
    clock.now += timedelta(seconds=1)
    assert secret() == "rk_test_second"


def test_a_key_from_a_file_may_end_with_its_line(secrets_manager, secret):
    holds(secrets_manager, "sk_test_key\n")

    assert secret() == "sk_test_key"


@pytest.mark.parametrize("value", ["1fWq0ZbV8yT3", '{"key": "sk_test_key"}', "pk_test_key"])
def test_an_invalid_key_is_neither_used_nor_cached_nor_logged(secrets_manager, secret, value):
    holds(secrets_manager, value)
    holds(secrets_manager, "sk_test_key")

    with pytest.raises(PaymentUnavailable) as rejected:
        secret()

    assert value not in str(rejected.value)
    assert secret() == "sk_test_key"


def test_an_unreadable_secret_is_read_again_on_the_next_use(secrets_manager, secret):
    secrets_manager.add_client_error("get_secret_value", "InternalServiceError")
    holds(secrets_manager, "sk_test_key")

    with pytest.raises(PaymentUnavailable, match="cannot be read"):
        secret()

    assert secret() == "sk_test_key"
