"""`agent-credits release`: ends a run's reservation by hand; a repeat changes nothing."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from agent_credits.aws.backoff import back_off
from agent_credits.aws.dynamodb_rows import DynamoDBRows
from agent_credits.commit.changes import AlreadyRecorded, Conflicting, Recorded, ReleaseChange
from agent_credits.commit.together import commit_changes
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Entry
from agent_credits.ledger.expiry import bring_up_to
from agent_credits.ledger.reservations import reservation_of, tree_below
from agent_credits.ledger.shared_pools import is_holding, payers_run
from agent_credits.notices.notice import iso
from agent_credits.values.credits import format_credits
from agent_credits.values.display import count_text, credits_text, time_text
from agent_credits.values.errors import AccountTooLarge, Contended, RowsUnavailable
from agent_credits.values.principals import Principal
from agent_credits_cli.accounts import existing_account, principal_from
from agent_credits_cli.confirmation import Yes, confirm
from agent_credits_cli.errors import CommandError
from agent_credits_cli.recorded_runs import Recorded as RecordedEvent
from agent_credits_cli.recorded_runs import find_run
from agent_credits_cli.tables import AsJson, out, print_json
from agent_credits_cli.target import connect, rows_of

# The entry keeps the reason, and the account's row keeps the entry until its page is full.
REASON_CHARACTERS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Released:
    """The entry of a release by hand, and whether it was recorded now."""

    principal: Principal
    entry: Entry
    is_new: bool


def release(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")],
    reason: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Why, for those who read the ledger; it is recorded."),
    ],
    principal: Annotated[
        str | None,
        typer.Option(help="The account that holds the reservation, if it is not found."),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """End the reservation of a run, and give back what is left of it.

    For a run that its platform has lost: without this, its credits come back once the reservation
    expires. Reservations of runs below it end too. What the runs used stays used, and a run that
    is still at work may go on using credits: it is not stopped by this.
    """
    if not reason.strip() or not reason.isprintable() or len(reason) > REASON_CHARACTERS_MAX:
        raise CommandError(
            f"--reason: say why in one line of at most {REASON_CHARACTERS_MAX} characters"
        )
    target = connect(context)
    named = principal_from(principal) if principal else None
    try:
        released = release_by_hand(rows_of(target), run, reason, named, datetime.now(UTC), yes=yes)
    except (RowsUnavailable, Contended, AccountTooLarge) as error:
        raise CommandError(f"{target.name}: {error}; run it again, a repeat is harmless") from error
    _print(run, released, as_json=as_json)


def release_by_hand(
    rows: DynamoDBRows,
    run_id: str,
    reason: str,
    principal: Principal | None,
    now: datetime,
    *,
    yes: bool,
) -> Released:
    """End the run's reservation, unless it was ended by hand before; ask first, unless `yes`."""
    if is_holding(run_id):
        payer, run = payers_run(run_id)
        raise CommandError(
            f"a team's account holds this for run {run} of {payer}, and gives it back when that"
            f" ends: run `agent-credits release {run} --principal {payer}`"
        )
    if principal is not None:
        existing_account(rows, principal)
    found = find_run(rows, run_id, principal)
    principals = {recorded.principal for recorded in found} | ({principal} if principal else set())
    account = _holder(rows, run_id, principals, now)
    if account is None:
        return _released_before(run_id, found, principal)
    if not yes:
        confirm(_question(account, run_id))
    # The id includes the row's version, so that two operators at once release it once.
    change = ReleaseChange(account.principal, run_id, f"release:{account.version}", reason)
    committed = commit_changes(rows, account.principal, [change], now=now, pause=back_off)
    match committed.results:
        case (Recorded(entry),):
            return Released(account.principal, entry, is_new=True)
        case (AlreadyRecorded(entry) | Conflicting(entry),):
            return Released(account.principal, entry, is_new=False)
        case _:
            raise CommandError(
                f"the reservation of run {run_id} ended in the meantime:"
                f" see `agent-credits explain {run_id}`"
            )


def _holder(
    rows: DynamoDBRows, run_id: str, principals: Collection[Principal], now: datetime
) -> Account | None:
    """Return the account that holds a live reservation of the run."""
    for principal in sorted(principals):
        row = rows.read_account(principal)
        if row and reservation_of(bring_up_to(row, now).reservations, run_id) is not None:
            return row
    return None


def _question(account: Account, run_id: str) -> str:
    tree = tree_below(account.reservations, run_id)
    below = f", and of {count_text(len(tree) - 1, 'run')} below it" if len(tree) > 1 else ""
    left = credits_text(sum(reservation.left_microcredits for reservation in tree))
    return f"End the reservation of run {run_id} of {account.principal}{below}, with {left} left?"


def _released_before(
    run_id: str, found: Collection[RecordedEvent], principal: Principal | None
) -> Released:
    """Return the release by hand that was recorded before. Raises if there was none."""
    for recorded in found:
        if recorded.entry.outcome == "released" and recorded.entry.run is None:
            return Released(recorded.principal, recorded.entry, is_new=False)
    if not found:
        where = str(principal) if principal else "any account"
        raise CommandError(
            f"no event of run {run_id} is recorded on {where}, so nothing is reserved for it;"
            " check the run's id, or name its account with --principal"
        )
    raise CommandError(f"run {run_id} holds no reservation: {_why_none(run_id, found)}")


def _why_none(run_id: str, found: Collection[RecordedEvent]) -> str:
    entries = [recorded.entry for recorded in found]
    for entry in entries:
        if entry.outcome in ("finished", "returned", "released"):
            return f"it {_ENDED[entry.outcome]} at {time_text(entry.recorded_at)}"
    if any(move.run_id == run_id for entry in entries for move in entry.reservation.moves):
        return (
            "it expired, or was closed together with that of its parent;"
            f" `agent-credits explain {run_id}` shows which"
        )
    return "its request reserved nothing, or was not accepted"


_ENDED: Final = {
    "finished": "finished",
    "returned": "ended with a platform error",
    "released": "was released by the platform",
}


def _print(run_id: str, released: Released, *, as_json: bool) -> None:
    entry, facts = released.entry, released.entry.reservation
    if as_json:
        print_json(
            {
                "run_id": run_id,
                "principal": str(released.principal),
                "released": "now" if released.is_new else "already",
                "released_credits": format_credits(entry.amount_microcredits),
                "drawn_credits": format_credits(
                    sum(e.drawn_microcredits for e in facts.ended if e.run_id == run_id)
                ),
                "closed_runs": [e.run_id for e in facts.ended if e.run_id != run_id],
                "returned_to_run": _heir(entry),
                "reason": facts.reason,
                "recorded_at": iso(entry.recorded_at),
            }
        )
        return
    heir = _heir(entry)
    to = f" to the reservation of run {heir}" if heir else ""
    went_back = f"{credits_text(entry.amount_microcredits)} went back{to}"
    if not released.is_new:
        out().print(
            f"The reservation of run {run_id} was already released at"
            f" {time_text(entry.recorded_at)} ({facts.reason}): {went_back}.",
            soft_wrap=True,
        )
        return
    drawn = sum(e.drawn_microcredits for e in facts.ended if e.run_id == run_id)
    closed = ", ".join(e.run_id for e in facts.ended if e.run_id != run_id)
    below = f" Closed with it: {closed}." if closed else ""
    stays = f"; {credits_text(drawn)} were drawn and stay drawn" if drawn else ""
    out().print(
        f"Released run {run_id} of {released.principal}: {went_back}{stays}.{below}",
        soft_wrap=True,
    )


def _heir(entry: Entry) -> str | None:
    """Return the run whose reservation took what was left, if that was not the grants."""
    return next((move.run_id for move in entry.reservation.moves if move.microcredits > 0), None)
