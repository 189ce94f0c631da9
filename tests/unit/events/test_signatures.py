"""A message is authentic only with a signature that nobody can make without the key."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.stub import Stubber

from agent_credits.aws.cached_secret import SECRET_TTL
from agent_credits.aws.signing_keys import READ_AGAIN_AFTER, SigningKeys
from agent_credits.billing.directory import Directory
from agent_credits.events.signatures import (
    KEYS_MAX,
    Keys,
    KeysNotUnderstood,
    parse_key,
    parse_keys,
    sign,
    why_not_authentic,
)
from agent_credits.intake.debited_batch import DebitedBatch, Delivery
from agent_credits.intake.debits import Debits
from agent_credits.values.errors import SecretUnavailable
from tests.dispositions import postponed, rejected
from tests.memory_rows import MemoryRows
from tests.unit.builders import ANA, body, open_account, pause, sample_rows, usage
from tests.unit.builders import NOW as TIME

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
KEYS = {"k1": KEY, "k2": OTHER_KEY}.get
BODY = body(usage("e1"))
NOW = datetime(2026, 11, 23, tzinfo=UTC)
SECRET_ID = "arn:aws:secretsmanager:us-east-1:000000000000:secret:signing"


class TestSignature:
    def test_is_hmac_sha256_over_the_body_as_any_language_computes_it(self) -> None:
        expected = hmac.new(KEY, BODY.encode(), hashlib.sha256).hexdigest()

        assert sign(BODY, "k1", KEY) == f"k1:{expected}"

    @pytest.mark.parametrize(("key_id", "key"), [("k1", KEY), ("k2", OTHER_KEY)])
    def test_of_each_live_key_is_authentic(self, key_id: str, key: bytes) -> None:
        assert why_not_authentic(BODY, sign(BODY, key_id, key), KEYS) is None

    @pytest.mark.parametrize("text", ["é\u2028 \U0001f600", "", "[1, 2]\n", "\ud800"])
    def test_holds_for_any_body(self, text: str) -> None:
        assert why_not_authentic(text, sign(text, "k1", KEY), KEYS) is None

    @pytest.mark.parametrize(
        "changed",
        [
            pytest.param(BODY.replace("5", "6", 1), id="another amount"),
            pytest.param(f"{BODY} ", id="a blank more"),
            pytest.param(BODY[:-1], id="cut off"),
            pytest.param(f"[{BODY}]", id="packed by someone else"),
        ],
    )
    def test_of_another_body_is_rejected(self, changed: str) -> None:
        assert changed != BODY
        rejection = why_not_authentic(changed, sign(BODY, "k1", KEY), KEYS)

        assert rejection is not None
        assert (rejection.code, "body" in rejection.reason) == ("bad_signature", True)

    @pytest.mark.parametrize(
        "signature",
        [
            pytest.param(sign(BODY, "k1", OTHER_KEY), id="by another key than it says"),
            pytest.param(sign(BODY, "k3", KEY), id="by an unknown key"),
            pytest.param(sign(BODY, "k1", KEY)[:-1], id="cut off"),
            pytest.param(sign(BODY, "k1", KEY) + "0", id="too long"),
            pytest.param(sign(BODY, "k1", KEY).upper(), id="in capitals"),
            pytest.param(sign(BODY, "k1", KEY) + "\n", id="with a line end"),
            pytest.param(sign(BODY, "k1", KEY).removeprefix("k1:"), id="without a key id"),
            pytest.param(
                "k1:" + base64.b64encode(hmac.digest(KEY, BODY.encode(), "sha256")).decode(),
                id="in base 64",
            ),
            pytest.param("", id="empty"),
            pytest.param("k1:" + "é" * 64, id="no digits"),
        ],
    )
    def test_that_is_not_of_this_body_and_key_is_rejected(self, signature: str) -> None:
        rejection = why_not_authentic(BODY, signature, KEYS)

        assert rejection is not None
        assert rejection.code == "bad_signature"
        assert signature == "" or signature not in rejection.reason

    @pytest.mark.parametrize("place", range(64))
    def test_that_differs_in_any_one_digit_is_rejected(self, place: int) -> None:
        key_id, digits = sign(BODY, "k1", KEY).split(":")
        other = "0" if digits[place] != "0" else "1"
        changed = f"{digits[:place]}{other}{digits[place + 1 :]}"

        assert why_not_authentic(BODY, f"{key_id}:{digits}", KEYS) is None
        rejection = why_not_authentic(BODY, f"{key_id}:{changed}", KEYS)

        assert rejection is not None
        assert rejection.code == "bad_signature"

    def test_that_is_missing_is_rejected_by_a_code_of_its_own(self) -> None:
        rejection = why_not_authentic(BODY, None, KEYS)

        assert rejection is not None
        assert rejection.code == "unsigned"

    def test_may_be_missing_while_producers_change_over(self) -> None:
        assert why_not_authentic(BODY, None, KEYS, unsigned_counts=True) is None

    @pytest.mark.parametrize("signature", ["", "k1:" + "0" * 64, sign(f"{BODY} ", "k1", KEY)])
    def test_that_is_wrong_is_rejected_also_while_producers_change_over(
        self, signature: str
    ) -> None:
        rejection = why_not_authentic(BODY, signature, KEYS, unsigned_counts=True)

        assert rejection is not None
        assert rejection.code == "bad_signature"


class TestKeys:
    def test_are_read_by_their_ids(self) -> None:
        assert parse_keys(json.dumps({"k1": "k" * 32, "k-2_b": "o" * 64})) == {
            "k1": KEY,
            "k-2_b": b"o" * 64,
        }

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "sesame-open",
            "[" * 100_000,
            "[]",
            "{}",
            '{"k1": "short-sesame"}',
            '{"k1": 12345678901234567890123456789012}',
            '{"": "sesame-sesame-sesame-sesame-sesame"}',
            '{"k 1": "sesame-sesame-sesame-sesame-sesame"}',
            '{"k1": "sesame-sesame-sesame-sesame-ses\\n"}',
            json.dumps({f"k{n}": "sesame" * 8 for n in range(KEYS_MAX + 1)}),
        ],
    )
    def test_that_are_invalid_are_rejected_without_being_quoted(self, text: str) -> None:
        with pytest.raises(KeysNotUnderstood) as rejected:
            parse_keys(text)

        assert "sesame" not in str(rejected.value)
        # What the parser raised holds the text, and would be printed with a traceback.
        assert rejected.value.__context__ is None or rejected.value.__suppress_context__

    def test_one_character_less_is_too_short(self) -> None:
        assert parse_key("k1", "k" * 32) == KEY
        with pytest.raises(KeysNotUnderstood, match="key k1 must be a string of 32"):
            parse_key("k1", "k" * 31)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class TestSecret:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def secrets_manager(self) -> Iterator[Stubber]:
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
    def keys(self, secrets_manager: Stubber, clock: Clock) -> SigningKeys:
        return SigningKeys(secrets_manager.client, SECRET_ID, clock)

    @staticmethod
    def holds(secrets_manager: Stubber, **keys: str) -> None:
        secrets_manager.add_response(
            "get_secret_value", {"SecretString": json.dumps(keys)}, {"SecretId": SECRET_ID}
        )

    def test_is_kept_for_a_minute(
        self, secrets_manager: Stubber, keys: SigningKeys, clock: Clock
    ) -> None:
        self.holds(secrets_manager, k1="k" * 32)
        self.holds(secrets_manager, k1="o" * 32)

        assert keys("k1") == KEY
        clock.now += SECRET_TTL - timedelta(seconds=1)
        assert keys("k1") == KEY
        clock.now += timedelta(seconds=1)
        assert keys("k1") == OTHER_KEY

    def test_is_read_again_for_a_key_that_was_just_added(
        self, secrets_manager: Stubber, keys: SigningKeys, clock: Clock
    ) -> None:
        self.holds(secrets_manager, k1="k" * 32)
        self.holds(secrets_manager, k1="k" * 32, k2="o" * 32)

        assert keys("k1") == KEY
        clock.now += READ_AGAIN_AFTER
        assert keys("k2") == OTHER_KEY
        assert keys("k1") == KEY

    def test_is_not_read_for_each_message_of_an_unknown_key(
        self, secrets_manager: Stubber, keys: SigningKeys, clock: Clock
    ) -> None:
        self.holds(secrets_manager, k1="k" * 32)

        assert [keys("k9") for _ in range(100)] == [None] * 100

        self.holds(secrets_manager, k1="k" * 32)
        clock.now += READ_AGAIN_AFTER
        assert [keys("k9") for _ in range(100)] == [None] * 100

    def test_that_holds_no_keys_is_unavailable_and_is_not_quoted(
        self, secrets_manager: Stubber, keys: SigningKeys
    ) -> None:
        self.holds(secrets_manager, k1="sesame")

        with pytest.raises(SecretUnavailable) as rejected:
            keys("k1")

        assert "sesame" not in str(rejected.value)


class TestDebiting:
    @pytest.fixture
    def rows(self) -> MemoryRows:
        rows = sample_rows()
        open_account(rows)
        return rows

    def debit(
        self,
        rows: MemoryRows,
        *deliveries: Delivery,
        keys: Keys | None = KEYS,
        unsigned_counts: bool = False,
    ) -> DebitedBatch:
        debits = Debits(
            rows, Directory(rows), pause, signing_keys=keys, unsigned_counts=unsigned_counts
        )
        return debits.debit(deliveries, now=TIME, time_is_left=lambda: True)

    def test_an_unsigned_message_fails_alone(self, rows: MemoryRows) -> None:
        signed, unsigned = body(usage("e1")), body(usage("e2"))
        forged = body(usage("e3"))

        batch = self.debit(
            rows,
            Delivery("m1", unsigned),
            Delivery("m2", signed, sign(signed, "k1", KEY)),
            Delivery("m3", forged, sign(signed, "k1", KEY)),
        )

        assert {m: rejection.code for m, rejection in rejected(batch).items()} == {
            "m1": "unsigned",
            "m3": "bad_signature",
        }
        assert [outcome.message_id for outcome in batch.outcomes] == ["m2"]

    def test_while_producers_change_over_only_a_wrong_signature_fails(
        self, rows: MemoryRows
    ) -> None:
        signed, unsigned, forged = (body(usage(event_id)) for event_id in ("e1", "e2", "e3"))

        batch = self.debit(
            rows,
            Delivery("m1", unsigned),
            Delivery("m2", signed, sign(signed, "k1", KEY)),
            Delivery("m3", forged, sign(signed, "k1", KEY)),
            unsigned_counts=True,
        )

        assert {m: rejection.code for m, rejection in rejected(batch).items()} == {
            "m3": "bad_signature",
        }
        assert {outcome.message_id for outcome in batch.outcomes} == {"m1", "m2"}
        # By this the operator sees when every producer signs.
        assert batch.counts["MessagesUnsigned"] == 1

    def test_unsigned_messages_are_counted_only_while_producers_change_over(
        self, rows: MemoryRows
    ) -> None:
        assert "MessagesUnsigned" not in self.debit(rows, Delivery("m", BODY)).counts
        assert "MessagesUnsigned" not in self.debit(rows, Delivery("m", BODY), keys=None).counts

    def test_a_packed_array_is_signed_once_and_counts_whole(self, rows: MemoryRows) -> None:
        packed = body([usage("e1"), usage("e2")])

        batch = self.debit(rows, Delivery("m", packed, sign(packed, "k2", OTHER_KEY)))

        assert len(batch.outcomes) == 2

    def test_an_unsigned_message_is_rejected_without_reading_its_events(
        self, rows: MemoryRows
    ) -> None:
        before = rows.read_account(ANA)

        batch = self.debit(rows, Delivery("m", "not even JSON"))

        assert rejected(batch)["m"].code == "unsigned"
        assert rows.read_account(ANA) == before

    def test_messages_are_delivered_again_while_the_keys_cannot_be_read(
        self, rows: MemoryRows
    ) -> None:
        def no_keys(_: str) -> bytes:
            raise SecretUnavailable("the secret cannot be read")

        batch = self.debit(rows, Delivery("m", BODY, sign(BODY, "k1", KEY)), keys=no_keys)

        assert rejected(batch) == {}
        assert isinstance(postponed(batch)["m"], SecretUnavailable)

    def test_signatures_are_ignored_unless_the_stack_requires_them(self, rows: MemoryRows) -> None:
        batch = self.debit(rows, Delivery("m", BODY, "nonsense"), keys=None)

        assert len(batch.outcomes) == 1
