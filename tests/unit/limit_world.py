"""A world with limits: members of a team with 500 credits each, and the events that reach them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from agent_credits.aws.items import account_from_item, account_item
from agent_credits.billing.limits import TeamLimit
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team, bill
from agent_credits.commit.changes import Result, RunChange, Unsure, Waiting
from agent_credits.commit.together import commit_changes, commit_together
from agent_credits.commit.write_protocol import Committed
from agent_credits.events.agent_runs import Rejection
from agent_credits.ledger.accounts import Account, available_microcredits
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.limits import LimitKey, count_of
from agent_credits.notices.announcements import (
    AccountRecord,
    LimitRecord,
    NoticeSettings,
    StreamRecord,
    notices_of,
)
from agent_credits.notices.notice import Notice
from agent_credits.sweeps import shared_draws
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.limit_rows import contradictions, spanning_limits
from agent_credits.sweeps.verification import verify_row
from agent_credits.values.credits import format_credits, parse_credits
from agent_credits.values.principals import Principal
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    NOW,
    POLICY,
    grant_change,
    open_account,
    parsed,
    pause,
)


def limit(scope: str, credits: str, period: str = "month", **fields: Any) -> TeamLimit:  # noqa: A002
    return TeamLimit.model_validate(
        {"scope": scope, "microcredits": parse_credits(credits), "period": period, **fields}
    )


def team_with(*limits: TeamLimit, team: Team = ACME, **settings: Any) -> Team:
    return Team.model_validate({**team.model_dump(), "limits": limits, **settings})


class LimitWorld:
    """Members of a team with 500 credits each, unless the credits are the team's own."""

    def __init__(
        self,
        *limits: TeamLimit,
        team: Team = ACME,
        policy: BillingPolicy = POLICY,
        payers: Sequence[Principal] = (ANA, BEN),
        pool: str = "plan",
        rows: MemoryRows | None = None,
    ) -> None:
        self.rows = rows or MemoryRows()
        self.policy = policy
        self.team = team_with(*limits, team=team)
        for principal in payers:
            change = grant_change(
                f"g-{principal.id}", credits="500", pool=pool, principal=principal
            )
            open_account(self.rows, change)

    def set_limits(self, *limits: TeamLimit) -> None:
        self.team = team_with(*limits, team=self.team)

    def changes(self, *documents: dict[str, Any]) -> dict[Principal, list[RunChange]]:
        by_account: dict[Principal, list[RunChange]] = {}
        for event in map(parsed, documents):
            billing = bill(event, self.team, self.policy)
            assert not isinstance(billing, Rejection)
            by_account.setdefault(billing.principal, []).append(RunChange(event, billing))
        return by_account

    def send(self, *documents: dict[str, Any], now: datetime = NOW) -> list[Result]:
        """Commit the events of each account by themselves, in the order of the accounts."""
        results: list[Result] = []
        for principal, changes in self.changes(*documents).items():
            results += commit_changes(self.rows, principal, changes, now=now, pause=pause).results
        self.check(now)
        return results

    def send_together(self, *documents: dict[str, Any], now: datetime = NOW) -> list[Result]:
        outcomes = commit_together(self.rows, self.changes(*documents), now=now, pause=pause)
        committed = [found for found in outcomes.values() if isinstance(found, Committed)]
        assert len(committed) == len(outcomes)
        self.check(now)
        return [result for found in committed for result in found.results]

    def outcomes(self, *documents: dict[str, Any], now: datetime = NOW) -> list[str]:
        return [name_of(result) for result in self.send(*documents, now=now)]

    def entry(self, document: dict[str, Any], now: datetime = NOW) -> Entry:
        (result,) = self.send(document, now=now)
        assert not isinstance(result, Rejection | Waiting | Unsure)
        return result.entry

    def check(self, now: datetime = NOW) -> None:
        """Check that the ledger explains each row, and that limits' rows are sums of accounts."""
        self.rows.policies[self.policy.version] = self.policy
        shared = shared_draws.SharedDraws()
        for principal, account in self.rows.accounts.items():
            assert account_from_item(account_item(account)) == account
            found = verify_row(self.rows, account, {}, Checkpoint(principal, NOW.date()))
            assert found.findings == ()
            shared.update(found.shared)
        assert list(shared_draws.contradictions(shared)) == []
        accounts = self.rows.accounts.values()
        for key in {*self.rows.limits, *(k for a in accounts for k in spanning_limits(a))}:
            found = contradictions(key, self.rows.limits.get(key), accounts, now)
            assert list(found) == []

    def notices(self, notice_type: str) -> list[Notice]:
        """Return what was published of all commits, account by account and then of limits."""
        settings = NoticeSettings(problem_type_base_url="")
        records: list[StreamRecord] = [AccountRecord(*images) for images in self.rows.stream]
        records += [LimitRecord(*images, NOW) for images in self.rows.limit_stream]
        found = [notice for record in records for notice in notices_of(record, settings)]
        return [notice for notice in found if notice.type == notice_type]

    def account(self, principal: Principal = ANA) -> Account:
        return self.rows.accounts[principal]

    def available(self, principal: Principal = ANA, now: datetime = NOW) -> str:
        account = self.account(principal)
        pools = sorted({grant.pool for grant in account.grants})
        return format_credits(available_microcredits(account, pools, now))

    def drawn(self, key: LimitKey, principal: Principal = ANA) -> str:
        count = count_of(self.account(principal).limit_counts, key)
        return format_credits(count.drawn_microcredits) if count else "none"

    def row(self, key: LimitKey) -> str:
        return format_credits(self.rows.limits[key].drawn_microcredits)


def name_of(result: Result) -> str:
    match result:
        case Rejection(code, _):
            return code
        case Waiting():
            return "waiting"
        case Unsure():
            return "unsure"
        case _:
            return result.entry.outcome
