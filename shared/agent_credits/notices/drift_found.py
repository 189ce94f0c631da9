"""The notice of an account that contradicts its ledger. Nothing is repaired."""

from agent_credits.notices.notice import Notice
from agent_credits.notices.observations import DriftFinding, DriftFound
from agent_credits.values.credits import format_credits


def drift_found(drift: DriftFound) -> Notice:
    fix = _fixes(drift)
    return Notice(
        type="drift_found",
        severity="critical",
        principal=drift.principal,
        team_id=drift.team_id or "",
        key=drift.key,
        subject=str(drift.principal),
        time=drift.time,
        retryable=False,
        data={
            "principal": str(drift.principal),
            "team_id": drift.team_id,
            "findings": [_finding_to_json(finding) for finding in drift.findings],
            "findings_count": drift.findings_count,
            "fix": fix,
        },
        email_subject=f"The balance of {drift.principal} contradicts its ledger",
        email_text=_email_text(drift, fix),
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
            f"Whoever operates the meter: run `agent-credits verify {drift.principal}` for all of "
            "it, and find out who wrote to the tables; no function of the stack does this."
        ),
        (
            "Compare with a point-in-time copy of both tables from before it, and restore what was "
            "changed; a ledger that is corrected by hand proves nothing any more."
        ),
    ]


def _email_text(drift: DriftFound, fix: list[str]) -> str:
    more = drift.findings_count - len(drift.findings)
    lines = [
        (
            f"Reconciling {drift.principal} on {drift.day} found that the account does not hold "
            "what its ledger says."
        ),
        "",
        f"Account:   {drift.principal}",
        f"Team:      {drift.team_id or 'not known'}",
        f"Found:     {drift.findings_count} contradiction(s)",
        *(f"- {finding.place}: {finding.text}" for finding in drift.findings),
        *([f"- and {more} more"] if more else []),
        "",
        "What to do now:",
        *(f"- {step}" for step in fix),
        "",
        "Nothing was changed: reconciling only reads. Runs go on being debited from this account.",
    ]
    return "\n".join(lines) + "\n"
