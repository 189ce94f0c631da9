"""The sample world: a declared world, the samples to send to it, and their expected results.

It is read from the same file as `agent-credits apply` takes, and just as strictly.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.events.agent_runs import RejectionCode
from agent_credits.values.identifiers import Identifier, PoolName, PrincipalText, RulePool
from agent_credits_cli.world import Credits, CreditsOrNone, Declared, World
from agent_credits_cli.world_file import (
    Complaints,
    complaints_about,
    no_account,
    read_world,
    repeated,
    unknown,
)


class DeclaredCard(Declared):
    """A test card, attached as a team's payment method at the stand-in."""

    team_id: Identifier
    number: str = Field(pattern=r"^[0-9]{12,19}$")


ExpectedOutcome = Literal[
    "accepted",
    "extended",
    "debited",
    "insufficient",
    "waived",
    "finished",
    "returned",
    "released",
    "already_recorded",
    "conflicting",
    "rejected",
    "observed",
]


class ExpectedEvent(Declared):
    """The expected result of one event. `event` is left out if the message has no readable id.

    `draws` are credits by pool, as rules name it, in drawing order: taken, or given back if the
    outcome is `returned`. `code` says why the event is rejected.
    """

    outcome: ExpectedOutcome
    event: Identifier | None = None
    principal: PrincipalText | None = None
    draws: dict[RulePool, Credits] = Field(default_factory=dict)
    shortfall_microcredits: CreditsOrNone = Field(default=0, alias="shortfall")
    code: RejectionCode | None = None


class ExpectedNotice(Declared):
    type: Identifier
    run: Identifier


class Sample(Declared):
    """Files that are sent, each as one message, after the samples in `after` are done.

    Samples that do not wait for each other may be sent together, in any order.
    """

    name: str = Field(min_length=1)
    shows: str = Field(min_length=1)
    files: tuple[str, ...] = Field(min_length=1)
    after: tuple[str, ...] = ()
    expect: tuple[ExpectedEvent, ...] = Field(min_length=1)
    dead_letter: bool = False
    notices: tuple[ExpectedNotice, ...] = ()


class ExpectedBalance(Declared):
    """What the pools of an account hold after all samples, and what runs in flight reserve of them.

    An omitted pool holds nothing.
    """

    principal: PrincipalText
    pools: dict[PoolName, CreditsOrNone]
    reserved: dict[PoolName, CreditsOrNone] = Field(default_factory=dict)


class SampleWorld(World):
    cards: tuple[DeclaredCard, ...] = ()
    samples: tuple[Sample, ...] = ()
    balances: tuple[ExpectedBalance, ...] = ()

    ignored_keys: ClassVar[frozenset[str]] = frozenset()


def load_sample_world(path: Path) -> SampleWorld:
    """Read and check the file. Raises `CommandError` with one line that names file and place."""
    return read_world(path, SampleWorld, _complaints_about)


def with_cards_on_file(
    world: SampleWorld, put_on_file: Callable[[str], PaymentMethod]
) -> SampleWorld:
    """Return the world with the payment methods that its test cards have at the provider."""
    methods = {card.team_id: put_on_file(card.number) for card in world.cards}
    teams = tuple(
        team.model_copy(update={"payment": methods.get(team.team_id, team.payment)})
        for team in world.teams
    )
    return world.model_copy(update={"teams": teams})


def _complaints_about(world: SampleWorld) -> Complaints:
    yield from complaints_about(world)
    yield from repeated("cards", "team_id", [card.team_id for card in world.cards])
    yield from repeated("samples", "name", [sample.name for sample in world.samples])
    yield from repeated("balances", "principal", [str(b.principal) for b in world.balances])
    yield from _about_cards(world)
    yield from _about_samples(world)


def _about_cards(world: SampleWorld) -> Complaints:
    team_ids = {team.team_id for team in world.teams}
    for number, card in enumerate(world.cards):
        if card.team_id not in team_ids:
            yield (
                f"cards[{number}].team_id",
                unknown("team", card.team_id, team_ids, "declared"),
            )


def _about_samples(world: SampleWorld) -> Complaints:
    earlier: set[str] = set()
    for number, sample in enumerate(world.samples):
        for name in sample.after:
            if name not in earlier:
                yield (
                    f"samples[{number}].after",
                    f"{name!r} is not a sample above this one; put that one first",
                )
        for place, event in enumerate(sample.expect):
            if (event.outcome == "rejected") != (event.code is not None):
                yield (
                    f"samples[{number}].expect[{place}].code",
                    "belongs to the outcome rejected and to no other; add or remove it",
                )
        earlier.add(sample.name)
    team_of = world.team_of_accounts()
    for number, balance in enumerate(world.balances):
        if balance.principal not in team_of:
            yield f"balances[{number}].principal", no_account(balance.principal)
