"""A team whose members pay for themselves under one limit of the team, on an embedded stack."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent_credits.aws.backoff import back_off
from agent_credits.billing.limits import TeamLimit
from agent_credits.commit.changes import GrantChange
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.limits import LimitKey, LimitRow, count_of
from agent_credits.values.principals import Principal
from agent_credits_cli.messages import Message
from agent_credits_cli.run_queue import send_messages
from agent_credits_local.payment_stand_in import CARD_THAT_PAYS
from agent_credits_local.target import LocalTarget
from tests.e2e.reloading_team import CREDIT, ReloadingTeam, set_up_team

CREDITS_OF_A_MEMBER = 100


@dataclass(frozen=True)
class LimitedTeam:
    """Members with a hundred credits each; what they draw together is limited."""

    team: ReloadingTeam
    members: Sequence[Principal]
    key: LimitKey

    @property
    def accounts(self) -> list[Account]:
        found = self.team.rows.read_accounts_of(self.members)
        return [found[member] for member in self.members]

    @property
    def row(self) -> LimitRow | None:
        return self.team.rows.read_limits([self.key]).get(self.key)

    @property
    def drawn_by_members(self) -> list[int]:
        counts = [count_of(account.limit_counts, self.key) for account in self.accounts]
        return [count.drawn_microcredits if count else 0 for count in counts]

    def send(self, events: Sequence[dict[str, Any]]) -> None:
        """Send each event as a message of its own, so that several workers get them."""
        messages = [Message(json.dumps(e), group=str(n), events=1) for n, e in enumerate(events)]
        target = self.team.target
        send_messages(target.sqs, target.outputs.agent_runs_queue_url, messages)

    def usages(self, each: int, credits_used: str) -> list[dict[str, Any]]:
        """Return so many runs of each member, of which each reports so much usage."""
        events = []
        for number in range(each):
            for member in self.members:
                event = self.team.usage(f"run-{member.id}-{number}", credits_used)
                event["data"]["trigger"]["user_id"] = member.id
                events.append(event)
        return events

    def decided(self) -> list[str]:
        """Return the outcomes of all usage that was recorded."""
        outcomes = {}
        for account in self.accounts:
            pages = [page.entries for page in self.team.rows.read_pages(account.principal)]
            # A full page may be flushed already by a commit that is on its way, or lost its race.
            for entry in [e for page in [*pages, account.entries] for e in page]:
                if entry.type == "agent_run.usage":
                    outcomes[entry.identity] = entry.outcome
        return [*outcomes.values()]


def set_up_limited_team(target: LocalTarget, members: int, limit_credits: int) -> LimitedTeam:
    team = set_up_team(target, CARD_THAT_PAYS)
    principals = [Principal("user", f"{team.team_id}-{number}") for number in range(members)]
    for principal in principals:
        gift = GrantChange(
            principal=principal,
            grant_id="gift",
            pool="add_on",
            microcredits=CREDITS_OF_A_MEMBER * CREDIT,
            expires_at=None,
            cause="gift",
        )
        now = datetime.now(UTC)
        commit(team.rows, principal, [gift], now=now, pause=back_off, opens_account=True)
    limit = TeamLimit(scope="team", period="month", microcredits=limit_credits * CREDIT)
    before = team.team
    changes = {
        "version": before.version + 1,
        "members": frozenset(principal.id for principal in principals),
        "auto_reload": None,
        "limits": (limit,),
    }
    assert team.rows.compare_and_set_team(before.model_copy(update=changes)) is None
    key = LimitKey(team.team_id, "team", team.team_id, "month")
    return LimitedTeam(team, principals, key)
