from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from agent_credits.billing.teams import (
    CLOCK_SKEW_MAX,
    FORMER_MEMBERS_MAX,
    MEMBERS_MAX,
    SETTINGS_TTL,
    TENURE_NOTICE,
    Team,
    Tenure,
    bill,
)
from agent_credits.values.principals import Principal, parse_principal
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    BIGCORP,
    BIGCORP_TEAM,
    FAR_PAST,
    NOW,
    OLGA,
    POLICY,
    TRIGGERS,
    parsed,
    usage,
)

HANDOVER = NOW - timedelta(days=3)


def tenure(**fields: Any) -> Tenure:
    return Tenure(
        **{
            "since": FAR_PAST,
            "kind": "self_serve",
            "owner": "olga",
            "policy_version": POLICY.version,
            **fields,
        }
    )


ACME_HANDED_OVER = ACME.model_copy(
    update={"tenures": (tenure(), tenure(since=HANDOVER, owner="ben"))}
)


@pytest.mark.parametrize(
    ("team", "trigger", "principal"),
    [
        (ACME, "user", ANA),
        (ACME, "team_api_key", OLGA),
        (ACME, "schedule", OLGA),
        (BIGCORP_TEAM, "user", BIGCORP),
        (BIGCORP_TEAM, "team_api_key", BIGCORP),
        (BIGCORP_TEAM, "schedule", BIGCORP),
    ],
)
def test_the_trigger_and_the_kind_of_team_say_who_is_billed(
    team: Team, trigger: str, principal: Principal
) -> None:
    event = parsed(usage("e1", team=team.team_id, trigger=TRIGGERS[trigger]))

    billing = bill(event, team, POLICY)

    assert billing.principal == principal
    assert billing.policy_version == POLICY.version
    assert billing.grace == timedelta(days=30)


def test_after_a_change_of_owner_an_event_is_billed_by_its_own_time() -> None:
    before = parsed(
        usage("e1", trigger=TRIGGERS["schedule"], time=HANDOVER - timedelta(microseconds=1))
    )
    at = parsed(usage("e2", trigger=TRIGGERS["schedule"], time=HANDOVER))

    assert bill(before, ACME, POLICY) == bill(before, ACME_HANDED_OVER, POLICY)
    assert bill(before, ACME_HANDED_OVER, POLICY).principal == OLGA
    assert bill(at, ACME_HANDED_OVER, POLICY).principal == BEN


def test_the_first_tenure_has_no_start() -> None:
    team = ACME.model_copy(update={"tenures": (tenure(since=HANDOVER, owner="ben"),)})

    assert team.tenure_at(FAR_PAST).owner == "ben"


def test_a_team_that_becomes_enterprise_pays_for_its_runs_from_then_on() -> None:
    team = ACME.model_copy(
        update={"tenures": (tenure(), tenure(since=HANDOVER, kind="enterprise"))}
    )
    before = parsed(usage("e1", time=HANDOVER - timedelta(seconds=1)))
    after = parsed(usage("e2", time=HANDOVER))

    assert bill(before, team, POLICY).principal == ANA
    assert bill(after, team, POLICY).principal == Principal("team", "acme")


def test_tenures_are_in_the_order_of_their_start() -> None:
    with pytest.raises(ValidationError, match="sorted by their start"):
        Team.model_validate({**ACME.model_dump(), "tenures": (tenure(since=HANDOVER), tenure())})


def test_a_team_has_at_least_one_tenure() -> None:
    with pytest.raises(ValidationError, match="tenures"):
        Team.model_validate({**ACME.model_dump(), "tenures": ()})


def test_the_list_of_members_is_bounded() -> None:
    members = frozenset(f"u{number}" for number in range(MEMBERS_MAX + 1))

    with pytest.raises(ValidationError, match="a team may list at most 2,000 members"):
        Team.model_validate({**ACME.model_dump(), "members": members})


def test_the_list_of_those_who_left_is_bounded() -> None:
    left = tuple((f"u{number}", NOW) for number in range(FORMER_MEMBERS_MAX + 1))

    with pytest.raises(ValidationError, match="former_members"):
        Team.model_validate({**ACME.model_dump(), "former_members": left})


def test_an_enterprise_may_accept_every_user_of_the_platform() -> None:
    assert BIGCORP_TEAM.has_member_at("whoever", NOW)
    assert not ACME.has_member_at("whoever", NOW)


def test_a_tenure_starts_only_after_every_worker_knows_it() -> None:
    # An event may be ahead of the clock, and the worker that bills it may know old settings.
    assert TENURE_NOTICE > CLOCK_SKEW_MAX + SETTINGS_TTL


@pytest.mark.parametrize("text", ["user:ana", "team:acme", "user:a:b"])
def test_a_principal_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_principal(text)) == text


@pytest.mark.parametrize("text", ["", "ana", "user:", ":ana", "project:web", "User:ana"])
def test_an_invalid_principal_is_rejected_with_a_hint(text: str) -> None:
    with pytest.raises(ValueError, match="write user:<id> or team:<id>"):
        parse_principal(text)
