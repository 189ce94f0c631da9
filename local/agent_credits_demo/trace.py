"""A production trace as agent-run events: the users are invented, the costs are the trace's.

Everything follows from the trace and the options. So a replay can be repeated to the byte, and its
result can be computed without the system under test.
"""

import csv
import gzip
import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent_credits.values.credits import format_credits
from agent_credits.values.principals import Principal
from agent_credits_cli.errors import CommandError
from agent_credits_cli.world import World

TRACE_FILE: Final = "azure_llm_inference_2023_code.csv.gz"
TRACE_EVENTS: Final = 8_819

_TAG: Final = re.compile(r"([0-9a-z]+)-([1-9][0-9]{0,3})-([1-9][0-9]{0,2})-([0-9]{1,9})", re.ASCII)

# 1 credit for 1,000 tokens of context, 3 credits for 1,000 generated ones.
MICROCREDITS_PER_CONTEXT_TOKEN: Final = 1_000
MICROCREDITS_PER_GENERATED_TOKEN: Final = 3_000

POLICY_VERSION: Final = "replay-1"
SOURCE: Final = "/replay/azure-llm-inference-2023-code"

RUN_EVENTS_MAX: Final = 6
# One event in this many is delivered a second time.
TWICE_EVERY: Final = 10
# One member in this many holds too little, so that some runs fail.
SHORT_EVERY: Final = 7
SHORT_PERCENT: Final = 60
# Drawn first, so that most members draw from two grants.
TRIAL_MICROCREDITS: Final = 5_000_000
TRIAL_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the trace. `time` is RFC 3339."""

    time: str
    context_tokens: int
    generated_tokens: int

    @property
    def microcredits(self) -> int:
        return (
            self.context_tokens * MICROCREDITS_PER_CONTEXT_TOKEN
            + self.generated_tokens * MICROCREDITS_PER_GENERATED_TOKEN
        )


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What a replay is made of. Its tag contains all of this."""

    name: str
    events: int
    principals: int
    seed: int

    @property
    def tag(self) -> str:
        return f"{self.name}-{self.events}-{self.principals}-{self.seed}"

    @property
    def team_id(self) -> str:
        return f"replay-{self.tag}"

    @property
    def members(self) -> list[str]:
        """Return the members, busiest first. Each replay has new ones, with new pools."""
        return [f"{self.tag}-{number:03d}" for number in range(1, self.principals + 1)]

    @classmethod
    def from_tag(cls, tag: str) -> "ReplayOptions":
        parts = _TAG.fullmatch(tag)
        if parts is None:
            raise CommandError(
                f"{tag!r} is not the tag of a replay; use one that an earlier replay printed"
            )
        name, *numbers = parts.groups()
        return cls(name, *map(int, numbers))


@dataclass(frozen=True, slots=True)
class TracedEvent:
    """An event, who must be billed for it, and what it must cost."""

    id: str
    run_id: str
    principal: Principal
    microcredits: int
    body: str


@dataclass(frozen=True, slots=True)
class Replay:
    """The events, each once; and the bodies in the order of delivery, some of them twice."""

    options: ReplayOptions
    events: tuple[TracedEvent, ...]
    deliveries: tuple[TracedEvent, ...]
    world: World

    @property
    def principals(self) -> list[Principal]:
        return [Principal("user", member) for member in self.options.members]


def sum_by_principal(events: Sequence[TracedEvent]) -> dict[Principal, int]:
    """Return what each principal must be billed in total, in microcredits."""
    sums: dict[Principal, int] = {}
    for event in events:
        sums[event.principal] = sums.get(event.principal, 0) + event.microcredits
    return sums


def read_trace(path: Path, limit: int) -> list[Request]:
    """Read the first requests of the trace, at most `limit`."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        return [
            Request(
                # The trace has seven decimals of a second, and an RFC 3339 reader may know six.
                time=f"{row['TIMESTAMP'].replace(' ', 'T')[:26]}Z",
                context_tokens=int(row["ContextTokens"]),
                generated_tokens=int(row["GeneratedTokens"]),
            )
            for row in itertools.islice(csv.DictReader(lines), limit)
        ]


def plan_replay(requests: Sequence[Request], options: ReplayOptions) -> Replay:
    """Spread the requests over runs and members, and shuffle them with some repeated."""
    chance = random.Random(options.seed)
    events = tuple(_events(requests, options, chance))
    deliveries = [*events, *events[::TWICE_EVERY]]
    chance.shuffle(deliveries)
    return Replay(options, events, tuple(deliveries), _world(events, options))


def _events(
    requests: Sequence[Request], options: ReplayOptions, chance: random.Random
) -> Iterator[TracedEvent]:
    members = options.members
    # Zipf's law: the second busiest runs half as much as the busiest, the third a third.
    weights = [1 / rank for rank in range(1, len(members) + 1)]
    waiting = iter(requests)
    for run in itertools.count(1):
        (member,) = chance.choices(members, weights)
        run_id = f"replay-{options.tag}-run-{run:05d}"
        size = chance.randint(1, RUN_EVENTS_MAX)
        number = 0
        for number, request in enumerate(itertools.islice(waiting, size), start=1):
            yield _event(request, run_id, number, member, options)
        if number < size:
            return


def _event(
    request: Request, run_id: str, number: int, member: str, options: ReplayOptions
) -> TracedEvent:
    # The owner is the busiest member: unattended runs are paid from the owner's pools.
    is_owner = member == options.members[0]
    trigger = (
        {"kind": "schedule", "schedule_id": "nightly"}
        if is_owner
        else {"kind": "user", "user_id": member}
    )
    document = {
        "specversion": "1.0",
        "id": f"{run_id}-{number}",
        "source": SOURCE,
        "type": "agent_run.usage",
        "subject": run_id,
        "time": request.time,
        "data": {
            "team_id": options.team_id,
            "trigger": trigger,
            "credits": format_credits(request.microcredits),
        },
    }
    return TracedEvent(
        id=f"{run_id}-{number}",
        run_id=run_id,
        principal=Principal("user", member),
        microcredits=request.microcredits,
        body=json.dumps(document),
    )


def _world(events: Sequence[TracedEvent], options: ReplayOptions) -> World:
    """Return a team whose members hold enough for the replay, except for a few."""
    document = {
        "policy": _policy(),
        "plans": [{"name": "replay", "kind": "self_serve", "credits": "0"}],
        "teams": [
            {
                "team_id": options.team_id,
                "kind": "self_serve",
                "plan": "replay",
                "owner": options.members[0],
                "members": options.members,
                "time_zone": "UTC",
                "anchor": "2023-11-01",
            }
        ],
        "grants": _grants(sum_by_principal(events), options),
    }
    return World.model_validate_json(json.dumps(document), strict=True)


def _policy() -> dict[str, Any]:
    unattended = ["team_api_key", "schedule"]
    pools = ["trial", "add_on"]
    return {
        "version": POLICY_VERSION,
        "rules": [
            {"team": "self_serve", "triggers": ["user"], "payer": "user", "pools": pools},
            {"team": "self_serve", "triggers": unattended, "payer": "owner", "pools": pools},
            {
                "team": "enterprise",
                "triggers": ["user", *unattended],
                "payer": "team",
                "pools": ["contract"],
            },
        ],
    }


def _grants(needed: Mapping[Principal, int], options: ReplayOptions) -> list[dict[str, Any]]:
    grants: list[dict[str, Any]] = []
    for place, member in enumerate(options.members, start=1):
        principal = Principal("user", member)
        percent = SHORT_PERCENT if place % SHORT_EVERY == 0 else 100
        purchase = needed.get(principal, 0) * percent // 100
        grants.append(_grant(principal, "trial", TRIAL_MICROCREDITS, "gift"))
        grants[-1]["expires_in_days"] = TRIAL_DAYS
        if purchase > 0:
            grants.append(_grant(principal, "add_on", purchase, "purchase"))
    return grants


def _grant(principal: Principal, pool: str, microcredits: int, cause: str) -> dict[str, Any]:
    return {
        "principal": str(principal),
        "id": pool,
        "pool": pool,
        "credits": format_credits(microcredits),
        "cause": cause,
    }
