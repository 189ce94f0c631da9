"""The HTTP API on the embedded stack: gateways, function, tables, stream and payments are real."""

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent_credits.ledger.accounts import available_microcredits
from agent_credits_cli.messages import Message
from agent_credits_cli.run_queue import send_messages
from agent_credits_local.payment_stand_in import CARD_THAT_PAYS
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import LocalTarget
from tests.e2e.api_calls import ApiCalls, usage
from tests.e2e.reloading_team import CREDIT, PACK, ReloadingTeam, once, set_up_team

ROOT = Path(__file__).parents[2]
SCHEMATHESIS = ROOT / ".tools" / "schemathesis" / "bin" / "schemathesis"
DOCUMENT = ROOT / "shared" / "agent_credits" / "api" / "openapi.json"
# What a run of the test makes of each call; `--phases coverage` makes thousands, in minutes.
EXAMPLES = 8
SCHEMATHESIS_SECONDS_MAX = 400

pytestmark = pytest.mark.timeout(500)


@pytest.fixture(scope="module")
def api(stack: LocalTarget, stack_folder: StateFolder) -> ApiCalls:
    return ApiCalls(stack, stack_folder)


@pytest.fixture
def team(stack: LocalTarget) -> Iterator[ReloadingTeam]:
    """A team that reloads: its member has ten credits, and a pack costs 40 dollars."""
    made = set_up_team(stack, CARD_THAT_PAYS)
    yield made
    stack.sqs.delete_queue(QueueUrl=made.notices_url)


def reservation(team: ReloadingTeam, run_id: str, credits_text: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "source": "/platform/agents",
        "team_id": team.team_id,
        "trigger": {"kind": "user", "user_id": team.member.id},
        "credits": credits_text,
    }


def test_the_producers_door_is_iams(api: ApiCalls, team: ReloadingTeam) -> None:
    path = f"/v1/accounts/{team.member}"

    assert api.unsigned("GET", path).status == 403
    assert api.by_producer("GET", path).json["available_credits"] == "10"


def test_the_peoples_door_is_a_tokens(api: ApiCalls, team: ReloadingTeam) -> None:
    path, member = f"/v1/accounts/{team.member}", team.member.id
    own = api.token(member, team.team_id)
    admin = api.token("boss", team.team_id, role="billing_admin")
    other = api.token("eve", "another-team", role="billing_admin")

    assert api.by_person(None, "GET", path).status == 401
    assert api.by_person(own + "x", "GET", path).status == 401
    assert api.by_person(own, "GET", path).json["available_credits"] == "10"
    assert api.by_person(admin, "GET", path).status == 200
    assert api.by_person(other, "GET", path).status == 404


def test_a_run_reserves_uses_and_settles(api: ApiCalls, team: ReloadingTeam) -> None:
    run = f"{team.team_id}-run"
    token = api.token(team.member.id, team.team_id, run_id=run)
    event = usage(team.team_id, team.member.id, run, "e1", "2")
    event_type = "application/cloudevents+json"

    made = api.by_person(token, "POST", "/v1/reservations", reservation(team, run, "5"))
    used = api.by_person(token, "POST", "/v1/events", event, content_type=event_type)
    settled = api.by_person(token, "POST", f"/v1/reservations/{run}/settle", {})

    assert (made.status, used.json["outcome"]) == (201, "debited")
    assert (settled.json["outcome"], settled.json["ended"]["drawn_credits"]) == ("finished", "2")
    # What is available depends on how soon a reload comes.
    assert api.by_producer("GET", f"/v1/accounts/{team.member}").json["reserved_credits"] == "0"


def test_an_event_by_the_queue_and_by_the_api_counts_once(
    api: ApiCalls, team: ReloadingTeam
) -> None:
    run = f"{team.team_id}-twice"
    event = usage(team.team_id, team.member.id, run, "e1", "2")
    outputs = team.target.outputs
    message = Message(json.dumps(event), group=str(team.member), events=1)
    send_messages(team.target.sqs, outputs.agent_runs_queue_url, [message])
    event_type = "application/cloudevents+json"
    api.by_producer("POST", "/v1/events", event, content_type=event_type)

    once(lambda: not _waiting(team))

    assert len(team.entries("agent_run.usage")) == 1
    query = {"principal": str(team.member)}
    assert api.by_producer("GET", f"/v1/runs/{run}", query=query).json["drawn_credits"] == "2"


def _waiting(team: ReloadingTeam) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = team.target.sqs.get_queue_attributes(
        QueueUrl=team.target.outputs.agent_runs_queue_url, AttributeNames=names
    )["Attributes"]
    return sum(int(attributes[name]) for name in names)


def test_a_request_that_finds_too_little_waits_for_the_reload_and_is_then_accepted(
    api: ApiCalls, team: ReloadingTeam
) -> None:
    body = reservation(team, f"{team.team_id}-run", "50")

    first = api.by_producer("POST", "/v1/reservations", body)
    once(lambda: api.by_producer("POST", "/v1/reservations", body).status == 201)

    assert (first.status, first.json["outcome"]) == (202, "waiting")
    assert team.payments == [("succeeded", PACK.price_cents)]


def test_a_purchase_is_paid_once_granted_and_recorded_with_who_made_it(
    api: ApiCalls, team: ReloadingTeam
) -> None:
    admin = api.token("boss", team.team_id, role="billing_admin")
    path = f"/v1/teams/{team.team_id}/purchases"
    body = {"principal": str(team.member), "pack_credits": "400"}
    headers = {"idempotency-key": "k1"}

    first = api.by_person(admin, "POST", path, body, headers=headers)
    api.by_person(admin, "POST", path, body, headers=headers)
    query = {"principal": str(team.member)}
    once(lambda: api.by_person(admin, "GET", f"{path}/k1", query=query).json["state"] == "granted")

    assert first.status == 202
    assert team.payments == [("succeeded", PACK.price_cents)]
    available = available_microcredits(team.account, ("add_on",), datetime.now(UTC))
    assert available == (10 + 400) * CREDIT
    shown = api.by_person(admin, "GET", f"/v1/teams/{team.team_id}").json
    (entry,) = shown["audit"]
    assert (entry["who"], entry["action"]) == ("user:boss", "purchase.made")


def test_settings_are_changed_with_a_record_of_who_changed_them(
    api: ApiCalls, team: ReloadingTeam
) -> None:
    admin = api.token("boss", team.team_id, role="billing_admin")
    path = f"/v1/teams/{team.team_id}/settings"

    got = api.by_person(admin, "PATCH", path, {"spend_cap_cents": 4_000})

    assert got.json["spending"]["spend_cap_cents"] == team.team.spend_cap_cents == 4_000
    assert got.json["audit"][0]["changes"][0]["after"] == 4_000


def test_the_document_is_served_as_it_was_committed(api: ApiCalls) -> None:
    assert api.by_person(None, "GET", "/v1/openapi.json").json == json.loads(DOCUMENT.read_text())


def test_every_answer_is_one_that_the_document_describes(
    api: ApiCalls, team: ReloadingTeam, tmp_path: Path
) -> None:
    if not SCHEMATHESIS.exists():
        reason = "schemathesis is not installed; `make .tools/schemathesis/.ready` does that"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    configuration = tmp_path / "schemathesis.toml"
    parameters = {
        "path.team_id": team.team_id,
        "path.principal": str(team.member),
        "query.principal": str(team.member),
        "path.run_id": "run-1",
    }
    lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in parameters.items()]
    configuration.write_text("\n".join(["[parameters]", *lines, ""]))
    token = api.token("root", role="operator")
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_schema_conformance"
    )

    done = subprocess.run(
        [
            *(str(SCHEMATHESIS), "--config-file", str(configuration), "run", str(DOCUMENT)),
            *("--url", team.target.outputs.people_api_url or ""),
            *("--header", f"Authorization: Bearer {token}"),
            *("--checks", checks, "--phases", "examples,fuzzing", "--seed", "1"),
            *("--max-examples", str(EXAMPLES), "--request-timeout", "90"),
            *("--suppress-health-check", "all", "--warnings", "off", "--no-color"),
            "--continue-on-failure",
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=SCHEMATHESIS_SECONDS_MAX,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-6_000:]
