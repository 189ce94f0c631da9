"""The notice of an account that contradicts its ledger, or of a limit that contradicts accounts.

Nothing is repaired automatically.
"""

from typing import NamedTuple

from agent_credits.ledger.limits import LimitKey
from agent_credits.notices.facts import Fact, fact_lines, facts, step_lines
from agent_credits.notices.notice import Notice
from agent_credits.notices.observations import DriftFinding, DriftFound
from agent_credits.values.credits import format_credits
from agent_credits.values.display import count_text


class _Words(NamedTuple):
    contradiction: str
    email_subject: str
    what_goes_on: str
    command: str


def drift_found(drift: DriftFound) -> Notice:
    words = _words(drift)
    fix = _fixes(words)
    data: dict[str, object] = {
        "principal": str(drift.principal),
        "team_id": drift.team_id,
        "findings": [_finding_to_json(finding) for finding in drift.findings],
        "findings_count": drift.findings_count,
        "fix": fix,
    }
    if drift.limit is not None:
        data["limit"] = drift.limit.model_dump()
    more = drift.findings_count - len(drift.findings)
    lines = [
        f"The reconciliation of {drift.day} found that {words.contradiction}.",
        "",
        *fact_lines(
            [
                *facts(data, "principal", "team_id"),
                Fact("Found", count_text(drift.findings_count, "contradiction")),
            ]
        ),
        *(f"- {finding.place}: {finding.text}" for finding in drift.findings),
        *([f"- and {more:,} more"] if more else []),
        "",
        *step_lines(fix),
        "",
        f"Nothing was changed: reconciliation only reads. {words.what_goes_on}",
    ]
    return Notice(
        type="drift_found",
        severity="critical",
        principal=drift.principal,
        team_id=drift.team_id or "",
        key=drift.key,
        subject=str(drift.principal),
        time=drift.time,
        retryable=False,
        data=data,
        email_subject=words.email_subject,
        email_text="\n".join(lines) + "\n",
    )


def _words(drift: DriftFound) -> _Words:
    principal, limit = drift.principal, drift.limit
    if limit is None:
        return _Words(
            contradiction=f"{principal} contradicts its ledger",
            email_subject=f"The balance of {principal} contradicts its ledger",
            what_goes_on="Runs are still debited from this account.",
            command=f"agent-credits verify {principal}",
        )
    key = LimitKey(principal.id, limit.scope, limit.id, limit.period)
    contradicts = "contradicts the accounts that count under it"
    return _Words(
        contradiction=f"the limit of {key} {contradicts}",
        email_subject=f"The limit of {key} {contradicts}",
        what_goes_on="The limit still stops runs by what its own row counts.",
        command="agent-credits verify",
    )


def _finding_to_json(finding: DriftFinding) -> dict[str, object]:
    document: dict[str, object] = {"place": finding.place, "text": finding.text}
    if finding.grant is not None:
        document |= {
            "grant_id": finding.grant.grant_id,
            "pool": finding.grant.pool,
            "expected_credits": format_credits(finding.grant.expected_microcredits),
            "found_credits": format_credits(finding.grant.found_microcredits),
        }
    return document


def _fixes(words: _Words) -> list[str]:
    return [
        (
            f"The meter's operator: run `{words.command}` for the full list, and find out "
            "what wrote to the tables. No function of the stack makes such a change."
        ),
        (
            "Compare both tables with a point-in-time copy from before the change, and restore "
            "what differs. Do not edit the ledger by hand: it would no longer prove anything."
        ),
    ]
