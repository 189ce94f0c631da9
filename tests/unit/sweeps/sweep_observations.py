"""An example of what each sweep may observe."""

from datetime import timedelta

from agent_credits.notices.observations import (
    CreditsExpiring,
    DriftedGrant,
    DriftedLimit,
    DriftFinding,
    DriftFound,
    ExpiringGrant,
)
from agent_credits.values.principals import Principal
from tests.unit.builders import ANA, NOW

DRIFTED = DriftFound(
    principal=ANA,
    team_id="acme",
    day=NOW.date(),
    time=NOW,
    findings=(
        DriftFinding(
            place="row",
            text="grant order-1003 holds 7 credits, but its ledger leaves 10",
            grant=DriftedGrant(
                grant_id="order-1003",
                pool="add_on",
                expected_microcredits=10_000_000,
                found_microcredits=7_000_000,
            ),
        ),
    ),
    findings_count=1,
)

DRIFTED_LIMIT = DriftFound(
    principal=Principal("team", "acme"),
    team_id="acme",
    day=NOW.date(),
    time=NOW,
    findings=(
        DriftFinding(
            place="limit of team acme per day",
            text="the limit's row counts 1 credit drawn, but its accounts count 11",
        ),
    ),
    findings_count=1,
    limit=DriftedLimit(scope="team", id="acme", period="day"),
)

EXPIRING = CreditsExpiring(
    principal=ANA,
    team_id="acme",
    expires_on=NOW.date() + timedelta(days=7),
    time=NOW,
    grants=(
        ExpiringGrant(
            grant_id="order-1003",
            pool="add_on",
            cause="purchase",
            remaining_microcredits=12_500_000,
            expires_at=NOW + timedelta(days=7),
        ),
    ),
)

TRIAL_EXPIRING = EXPIRING.model_copy(
    update={
        "grants": (
            ExpiringGrant(
                grant_id="welcome",
                pool="trial",
                cause="gift",
                remaining_microcredits=499_000_000,
                expires_at=NOW + timedelta(days=7),
            ),
        ),
    }
)
