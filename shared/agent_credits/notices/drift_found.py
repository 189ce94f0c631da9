"""The notice of an account that contradicts its ledger. Nothing is repaired automatically."""

from agent_credits.notices.facts import Fact, fact_lines, facts, step_lines
from agent_credits.notices.notice import Notice
from agent_credits.notices.observations import DriftFinding, DriftFound
from agent_credits.values.credits import format_credits
from agent_credits.values.display import count_text


def drift_found(drift: DriftFound) -> Notice:
    fix = _fixes(drift)
    data = {
        "principal": str(drift.principal),
        "team_id": drift.team_id,
        "findings": [_finding_to_json(finding) for finding in drift.findings],
        "findings_count": drift.findings_count,
        "fix": fix,
    }
    more = drift.findings_count - len(drift.findings)
    lines = [
        f"The reconciliation of {drift.day} found that {drift.principal} contradicts its ledger.",
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
        "Nothing was changed: reconciliation only reads. Runs are still debited from this account.",
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
        email_subject=f"The balance of {drift.principal} contradicts its ledger",
        email_text="\n".join(lines) + "\n",
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


def _fixes(drift: DriftFound) -> list[str]:
    return [
        (
            f"The meter's operator: run `agent-credits verify {drift.principal}` for the full "
            "list, and find out what wrote to the tables. No function of the stack makes such a "
            "change."
        ),
        (
            "Compare both tables with a point-in-time copy from before the change, and restore "
            "what differs. Do not edit the ledger by hand: it would no longer prove anything."
        ),
    ]
