import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from botocore.stub import Stubber
from typer.testing import CliRunner, Result

from agent_credits.events.agent_runs import parse_message
from agent_credits_cli.commands import send as send_module
from agent_credits_cli.errors import CommandError, CommandGroup
from agent_credits_cli.messages import (
    MESSAGE_BYTES_MAX,
    Message,
    checked_messages,
    message_of,
    read_text,
)
from agent_credits_cli.run_queue import ATTEMPTS_MAX, PROGRESS_FROM, send_messages
from agent_credits_cli.target import Target
from tests.sample_world import CHECKOUT, pause
from tests.unit.builders import cloudevent, usage

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

EVENTS = CHECKOUT / "events"


def received(sqs: "SQSClient", queue_url: str) -> list[tuple[str, str | None]]:
    """Return body and group of every message in the queue."""
    messages = []
    while batch := sqs.receive_message(
        QueueUrl=queue_url,
        MaxNumberOfMessages=10,
        MessageSystemAttributeNames=["MessageGroupId"],
    ).get("Messages"):
        messages += [(m["Body"], m.get("Attributes", {}).get("MessageGroupId")) for m in batch]
    return messages


def ndjson(*documents: object) -> str:
    return "".join(f"{json.dumps(document)}\n" for document in documents)


def bodies(text: str, pack: int = 1) -> list[str]:
    return [message.body for message in checked_messages("events.json", text, pack)]


def complaint_about(text: str) -> str:
    with pytest.raises(CommandError) as rejected:
        checked_messages("events.json", text, 1)
    line = str(rejected.value)
    assert "\n" not in line
    return line


ONE, TWO = ndjson(usage("e1")), ndjson(usage("e2"))
BAD_FILES = {
    "cut line": (ONE + '{"id": \n', ":2: is not JSON: Expecting value at line"),
    "no JSON": (ONE + "nonsense", ":2: is not JSON: Expecting value at line 2"),
    "no comma": (f"[{ONE}{TWO}]", ":2: is not JSON: the array has no comma or end here"),
    "no end": (f"[{ONE}", ":2: is not JSON: the array has no comma or end here"),
    "comma before the end": (f"[{ONE},]", ":2: is not JSON: Expecting value at line 2"),
    "number": ("12", ":1: is not an event: it is not a JSON object"),
    "array in an array": (f"[[{ONE}]]", ":1: is not an event: it is not a JSON object"),
    "deep object": ('{"a":' * 100_000, ":1: is not an event: a huge number, or nested too deeply"),
    "deep array": ("[" * 100_000, ":1: is not an event: a huge number, or nested too deeply"),
    "huge number": ('{"a": ' + "9" * 5_000 + "}", ":1: is not an event: a huge number"),
    "no event": ("[]", " holds no event"),
    "bad field": (ONE + ndjson(usage("e2", "-1")), ":2: data.credits must be a decimal"),
    "unknown type": (ndjson(cloudevent("e1", type="x")), ":1: "),
    "key twice": ('{"id": "a", "id": "b"}', ":1: the body is not JSON: an object has the same key"),
    "too long": (ndjson(usage("e1", note="x" * MESSAGE_BYTES_MAX)), ":1: is longer than the"),
}


class TestReading:
    def test_one_event_an_array_and_lines_are_read_alike(self) -> None:
        one, two = usage("e1"), usage("e2")

        from_array = bodies(json.dumps([one, two]))
        from_lines = bodies(ndjson(one, two))
        from_documents = bodies(json.dumps(one, indent=2) + json.dumps(two, indent=2))

        assert from_array == from_lines == [json.dumps(one), json.dumps(two)]
        assert [json.loads(body) for body in from_documents] == [one, two]

    def test_an_event_is_sent_as_the_exact_text_of_the_file(self) -> None:
        text = (EVENTS / "user_run.json").read_text()

        assert bodies(f"\n [ {text} ]\n") == [text.strip()]

    def test_a_byte_order_mark_and_empty_lines_are_ignored(self, tmp_path: Path) -> None:
        file = tmp_path / "events.ndjson"
        file.write_text("\ufeff\n" + ndjson(usage("e1")) + "\r\n\n" + ndjson(usage("e2")))

        text = read_text(str(file))

        assert len(bodies(text)) == 2

    @pytest.mark.parametrize(("text", "complaint"), BAD_FILES.values(), ids=BAD_FILES)
    def test_rejects_a_bad_file_with_the_line(self, text: str, complaint: str) -> None:
        assert complaint_about(text).startswith(f"events.json{complaint}")

    def test_every_good_sample_can_be_sent_and_every_malformed_one_is_rejected(self) -> None:
        rejected = set()
        for path in EVENTS.glob("*.json"):
            try:
                checked_messages(path.name, path.read_text(), 1)
            except CommandError:
                rejected.add(path.stem)

        assert rejected == {
            "not_json",
            "float_credits",
            "unknown_field",
            "packed_array_with_one_bad_event",
        }


class TestGrouping:
    def test_messages_are_grouped_by_who_most_likely_pays(self) -> None:
        key = {"kind": "team_api_key", "key_id": "k"}
        events = [usage("e1"), usage("e2", trigger=key), usage("e3", user="x" * 128)]

        groups = [m.group for m in checked_messages("f", ndjson(*events), 1)]

        assert groups == ["user:ana", "team:acme", f"user:{'x' * 123}"]

    def test_without_packing_the_order_of_the_file_is_kept(self) -> None:
        events = [usage(f"e{n}", user="ana" if n % 2 else "ben") for n in range(4)]

        assert bodies(ndjson(*events)) == [json.dumps(event) for event in events]

    def test_packs_events_of_one_group_in_their_order(self) -> None:
        events = [usage(f"e{n}", user="ana" if n % 2 else "ben") for n in range(7)]

        messages = checked_messages("f", ndjson(*events), 2)

        packs = [[e.id for e in parse_message(m.body).events] for m in messages]
        assert packs == [["e0", "e2"], ["e1", "e3"], ["e4", "e6"], ["e5"]]
        assert [m.group for m in messages] == ["user:ben", "user:ana", "user:ben", "user:ana"]
        assert [m.events for m in messages] == [2, 2, 2, 1]

    def test_a_packed_message_fits_the_queue(self) -> None:
        # White space is sent as it is in the file.
        long = "".join(json.dumps(usage(f"e{n}"), indent=100) for n in range(1_000))

        messages = checked_messages("f", long, 1_000)

        assert sum(message.events for message in messages) == 1_000
        assert all(message.size <= MESSAGE_BYTES_MAX for message in messages)
        assert all(not parse_message(message.body).rejections for message in messages)

    def test_an_unread_file_has_the_group_of_its_first_event(self) -> None:
        packed = message_of("f", (EVENTS / "packed_array.json").read_text())
        broken = message_of("f", (EVENTS / "not_json.json").read_text())

        assert (packed.group, packed.events) == ("user:hana", 3)
        assert (broken.group, broken.events) == (None, 1)


class TestSending:
    def test_sends_every_message_with_its_group_and_returns_their_ids_in_order(
        self, sqs: "SQSClient", queue_url: str
    ) -> None:
        messages = [Message(f"body {n}", f"user:u{n % 3}", 1) for n in range(25)]

        sent = send_messages(sqs, queue_url, [*messages, Message("bare", None, 1)], pause=pause)

        assert len(set(sent.message_ids)) == 26
        there = received(sqs, queue_url)
        assert sorted(there, key=str) == sorted(
            [*((m.body, m.group) for m in messages), ("bare", None)], key=str
        )

    def test_large_messages_are_split_over_calls_that_they_fit(
        self, sqs: "SQSClient", queue_url: str
    ) -> None:
        messages = [Message(letter * 600_000, None, 1) for letter in "abc"]

        sent = send_messages(sqs, queue_url, messages, pause=pause)

        assert len(sent.message_ids) == 3

    def test_repeats_only_the_entries_that_failed(self, sqs: "SQSClient") -> None:
        waits: list[int] = []
        with Stubber(sqs) as stubber:
            stubber.add_response("send_message_batch", answer("0", "2", failed=["1"]), entries(3))
            stubber.add_response("send_message_batch", answer("1"), entries(3, only=1))

            sent = send_messages(sqs, "q", messages(3), pause=waits.append)

        assert sent.message_ids == ("id-0", "id-1", "id-2")
        assert sent.repeated == 1
        assert waits == [1]

    def test_gives_up_on_entries_that_keep_failing(self, sqs: "SQSClient") -> None:
        with Stubber(sqs) as stubber:
            for _ in range(ATTEMPTS_MAX):
                stubber.add_response("send_message_batch", answer(failed=["0"]), entries(1))

            with pytest.raises(CommandError, match="0 of 1 message sent, then SQS failed 6 times"):
                send_messages(sqs, "q", messages(1), pause=pause)

    def test_does_not_repeat_a_message_that_the_sender_must_correct(self, sqs: "SQSClient") -> None:
        with Stubber(sqs) as stubber:
            stubber.add_response("send_message_batch", answer(*map(str, range(10))))
            stubber.add_response("send_message_batch", answer(failed=["0"], sender_fault=True))

            with pytest.raises(CommandError, match="10 of 11 messages sent, then SQS rejected one"):
                send_messages(sqs, "q", messages(11), pause=pause)

    def test_a_queue_that_does_not_answer_is_rejected_with_how_far_it_came(
        self, sqs: "SQSClient"
    ) -> None:
        with Stubber(sqs) as stubber:
            stubber.add_response("send_message_batch", answer(*map(str, range(10))))
            stubber.add_client_error("send_message_batch", "ServiceUnavailable")

            with pytest.raises(
                CommandError, match=r"10 of 11 messages sent, then: .* send the same"
            ):
                send_messages(sqs, "q", messages(11), pause=pause)


class TestCommand:
    @pytest.fixture
    def run(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        monkeypatch.setattr(send_module, "connect", lambda _: target)
        app = typer.Typer(cls=CommandGroup)
        app.command()(send_module.send)
        # A second command, so that Typer does not leave out the name of the only one.
        app.command("nothing")(lambda: None)
        return lambda *arguments, **kw: CliRunner().invoke(app, ["send", *arguments], **kw)

    def test_sends_files_and_says_how_many_events(
        self, run: Callable[..., Result], sqs: "SQSClient", queue_url: str
    ) -> None:
        files = [str(EVENTS / "user_run.json"), str(EVENTS / "packed_array.json")]

        sent = run(*files, "--pack=10")

        assert sent.output == "Sent 4 events in 2 messages to moto.\n"
        assert {group for _, group in received(sqs, queue_url)} == {"user:ana", "user:hana"}

    def test_sends_events_from_standard_input(self, run: Callable[..., Result]) -> None:
        sent = run("-", "--json", input=ndjson(usage("e1"), usage("e2")))

        assert json.loads(sent.output) == {"messages": 2, "events": 2, "repeated": 0}

    def test_nothing_is_sent_unless_every_file_is_good(
        self, run: Callable[..., Result], sqs: "SQSClient", queue_url: str
    ) -> None:
        rejected = run(str(EVENTS / "user_run.json"), str(EVENTS / "float_credits.json"))

        assert rejected.exit_code == 2
        assert rejected.output.startswith(f"agent-credits: {EVENTS / 'float_credits.json'}:1: ")
        assert rejected.output.count("\n") == 1
        assert received(sqs, queue_url) == []

    def test_unchecked_files_are_sent_as_they_are(
        self, run: Callable[..., Result], sqs: "SQSClient", queue_url: str
    ) -> None:
        file = EVENTS / "not_json.json"

        run("--unchecked", str(file))

        assert received(sqs, queue_url) == [(file.read_text(), None)]

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [(b" \n", "is empty"), (b"\n\xff", ":2: is not UTF-8"), (None, "cannot be read (No such")],
    )
    def test_a_file_that_no_message_can_carry_is_rejected(
        self, content: bytes | None, complaint: str, run: Callable[..., Result], tmp_path: Path
    ) -> None:
        file = tmp_path / "events.json"
        if content is not None:
            file.write_bytes(content)

        rejected = run("--unchecked", str(file))

        assert rejected.exit_code == 2
        assert complaint in rejected.output
        assert rejected.output.count("\n") == 1

    def test_long_input_shows_progress(self, run: Callable[..., Result]) -> None:
        long = ndjson(*(usage(f"e{n}") for n in range(PROGRESS_FROM)))

        sent = run("-", input=long)

        assert f"{PROGRESS_FROM}/{PROGRESS_FROM}" in sent.stderr


def messages(count: int) -> list[Message]:
    return [Message(f"body {n}", None, 1) for n in range(count)]


def entries(count: int, only: int | None = None) -> dict[str, Any]:
    """Return the parameters of a call that sends these messages, or only one of them."""
    numbers = range(count) if only is None else [only]
    return {
        "QueueUrl": "q",
        "Entries": [{"Id": str(n), "MessageBody": f"body {n}"} for n in numbers],
    }


def answer(*taken: str, failed: list[str] | None = None, sender_fault: bool = False) -> Any:
    return {
        "Successful": [{"Id": n, "MessageId": f"id-{n}", "MD5OfMessageBody": "-"} for n in taken],
        "Failed": [
            {"Id": n, "SenderFault": sender_fault, "Code": "InternalError"} for n in failed or []
        ],
    }
