"""The client against the deployed template: both doors of the API, the queue, faults and a kill."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.credentials import Credentials

from agent_credits.ledger.accounts import available_microcredits, reserved_microcredits
from agent_credits.ledger.entries import Entry
from agent_credits.values.credits import format_credits
from agent_credits_client import AgentCredits, InsufficientCredits, Options
from agent_credits_client.aws import SigV4, SqsQueue
from agent_credits_client.calls import SystemClock
from agent_credits_local.stack_state import StateFolder
from agent_credits_local.target import LocalTarget
from agent_credits_local.token_issuer import sign_token
from tests.api_world import Got
from tests.client.server import Fate, serving
from tests.client.workers import STEPS, Workers, steps
from tests.e2e.reloading_team import ReloadingTeam, once, set_up_team

GOOD_CARD = "4242424242424242"
POOLS = ("plan", "add_on")


@dataclass(frozen=True)
class Platform:
    """A team on the stack that has bought a pack, and what a platform knows of the stack."""

    team: ReloadingTeam
    people_url: str
    producers_url: str
    token: str

    def credits(self, **options: Any) -> AgentCredits:
        given = {"source": "/platform/agents", "on_unavailable": "deny", "token": self.token}
        return AgentCredits(self.people_url, **{**given, **options})

    def start(self, client: AgentCredits, run_id: str, estimate: str = "20", **more: Any) -> Any:
        trigger: Any = {"kind": "user", "user_id": self.team.member.id}
        return client.run(
            run_id, team_id=self.team.team_id, trigger=trigger, credits=estimate, **more
        )

    def of_run(self, run_id: str) -> list[Entry]:
        pages = [page.entries for page in self.team.rows.read_pages(self.team.member)]
        entries = [entry for page in [*pages, self.team.account.entries] for entry in page]
        return [entry for entry in entries if entry.identity.subject == run_id]

    def balance(self) -> tuple[int, int]:
        """Return what is available and what is reserved, in microcredits."""
        now = SystemClock().now()
        account = self.team.account
        return (
            available_microcredits(account, POOLS, now),
            reserved_microcredits(account, POOLS, now),
        )

    def deliver(self, request: httpx.Request) -> Got:
        """Pass a request on to the stack."""
        answer = httpx.request(
            request.method,
            f"{self.people_url}{request.url.raw_path.decode()}",
            headers={n: v for n, v in request.headers.items() if n not in ("host", "connection")},
            content=request.content,
            timeout=30,
        )
        headers = {n: v for n, v in answer.headers.items() if n in ("content-type", "retry-after")}
        return Got(answer.status_code, headers, answer.text)


@pytest.fixture(scope="module")
def platform(stack: LocalTarget, stack_folder: StateFolder) -> Platform:
    team = set_up_team(stack, GOOD_CARD)
    claims = {"sub": team.member.id, "teams": [team.team_id], "role": "operator"}
    people_url, producers_url = stack.outputs.people_api_url, stack.outputs.producers_api_url
    assert people_url is not None
    assert producers_url is not None
    token = sign_token(stack_folder.issuer_key, claims)
    platform = Platform(team, people_url, producers_url, token)
    # The team has ten credits: the first run waits for the pack that the stack buys for it.
    patient = Options(reload_wait_seconds=120)
    with platform.credits(options=patient) as client, platform.start(client, "first", "50") as run:
        assert run.is_reserved
    assert platform.balance() == (410_000_000, 0)
    return platform


@pytest.fixture
def run_id() -> str:
    return f"run-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def before(platform: Platform) -> tuple[int, int]:
    return platform.balance()


def drawn(platform: Platform, run_id: str) -> str:
    usage = [e for e in platform.of_run(run_id) if e.type == "agent_run.usage"]
    return format_credits(sum(entry.drawn_microcredits for entry in usage))


def test_a_token_of_the_run_alone_is_enough_for_it(
    platform: Platform, before: tuple[int, int], run_id: str, stack_folder: StateFolder
) -> None:
    claims = {"sub": platform.team.member.id, "teams": [platform.team.team_id], "run_id": run_id}
    token = sign_token(stack_folder.issuer_key, claims)

    with platform.credits(token=token) as client, platform.start(client, run_id) as run:
        run.use("1.5")
        run.flush()
        run.extend("5")
        run.use("2")

    assert [entry.outcome for entry in platform.of_run(run_id)] == [
        "accepted",
        "debited",
        "extended",
        "debited",
        "finished",
    ]
    assert platform.balance() == (before[0] - 3_500_000, before[1])


def test_a_producer_signs_its_requests(
    platform: Platform, before: tuple[int, int], run_id: str
) -> None:
    auth = SigV4(Credentials("test", "test"), "us-east-1")
    client = AgentCredits(
        platform.producers_url, source="/platform/agents", on_unavailable="deny", auth=auth
    )

    with client, platform.start(client, run_id) as run:
        run.use("1")

    assert platform.balance() == (before[0] - 1_000_000, before[1])


def test_usage_through_the_queue_draws_what_the_api_has_reserved(
    platform: Platform, before: tuple[int, int], run_id: str
) -> None:
    target = platform.team.target
    queue = SqsQueue(target.sqs, target.outputs.agent_runs_queue_url)

    with platform.credits(queue=queue) as client, platform.start(client, run_id) as run:
        for _ in range(60):
            run.use("0.1")

    once(lambda: platform.of_run(run_id)[-1].outcome == "finished")
    assert len(platform.of_run(run_id)) == 62
    assert drawn(platform, run_id) == "6"
    assert platform.balance() == (before[0] - 6_000_000, before[1])


def test_a_refusal_of_the_stack_says_what_is_lacking(platform: Platform, run_id: str) -> None:
    # Two packs are what the cap leaves room for, and this needs a hundred.
    with platform.credits() as client, pytest.raises(InsufficientCredits) as refused:
        platform.start(client, run_id, "40000").start()

    assert refused.value.cause == "spend_cap_reached"
    assert refused.value.principal == str(platform.team.member)
    assert refused.value.fix


@pytest.fixture
def workers(platform: Platform, tmp_path: Path) -> Iterator[Workers]:
    with serving(platform.deliver) as server:
        yield Workers(tmp_path, server, platform.token)


def test_a_worker_whose_answers_get_lost_and_that_is_killed_twice_bills_each_step_once(
    platform: Platform, before: tuple[int, int], run_id: str, workers: Workers
) -> None:
    workers.add_job(
        run_id,
        steps(),
        estimate="20",
        team_id=platform.team.team_id,
        user_id=platform.team.member.id,
    )
    lost: list[str] = []

    def lose_the_first(path: str) -> Fate:
        if path in lost:
            return "answer"
        lost.append(path)
        return "lose"

    workers.kill_during("/v1/reservations")
    workers.kill_during("/v1/events")
    workers.server.fate = lose_the_first
    assert workers.work() == f"{run_id}: done\n"

    usage = [e for e in platform.of_run(run_id) if e.type == "agent_run.usage"]
    assert len(usage) == len(STEPS)
    assert platform.of_run(run_id)[-1].outcome == "finished"
    assert platform.balance() == (before[0] - 6_500_001, before[1])
