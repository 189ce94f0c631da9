"""What an account counts under limits by its ledger alone, replayed entry by entry.

A count begins at zero in each period of its limit, and every entry says what it added or took.
What a limit was, the ledger only says where it refused: a limit can be lowered, raised or lifted at
any time. So a refusal alone shows whether a limit was passed.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from msgspec.structs import replace

from agent_credits.ledger.entries import Entry, RunContext
from agent_credits.ledger.limits import NO_LIMITS, Counted, LimitCount, LimitKey, LimitStanding
from agent_credits.sweeps.reserved_replay import ReservedReplay
from agent_credits.values.display import amount_text

# What a run added to each count, by the end of the count's period, and did not give back.
CountedByRun = Mapping[tuple[LimitKey, datetime], int]


class CountedReplay:
    """The counts after the entries so far. `reserved`: the reservations after the same entries."""

    def __init__(self, reserved: ReservedReplay, since: Iterable[LimitCount] = ()) -> None:
        self._reserved = reserved
        self._counts = {count.key: count for count in since}

    def state(self, now: datetime) -> tuple[LimitCount, ...]:
        """Return the counts whose period goes on. What is over begins at zero again."""
        return tuple(count for count in self._counts.values() if count.is_current(now))

    def apply(self, entry: Entry) -> None:
        for counted in entry.limits.counted:
            there = self._counts.get(counted.key)
            if there is None or there.ends_at != counted.ends_at:
                there = LimitCount(counted.key, counted.ends_at)
            drawn = there.drawn_microcredits + counted.microcredits
            self._counts[counted.key] = replace(there, drawn_microcredits=drawn)

    def contradictions(
        self, entry: Entry, run: RunContext, run_drew: int, run_counted: CountedByRun
    ) -> Iterator[str]:
        """Yield what in the next entry contradicts the counts so far, as ends of sentences.

        `run_drew`, `run_counted`: what its run had drawn and counted before it.
        """
        if entry.limits == NO_LIMITS:
            return
        if entry.limits.counted and not _may_count(entry):
            yield f"counts under a limit, but is {entry.outcome}"
        for counted in entry.limits.counted:
            yield from self._of_count(entry, run, counted, run_counted)
        if entry.limits.standings and entry.outcome != "insufficient":
            yield f"names a limit that refused it, but is {entry.outcome}"
        for standing in entry.limits.standings:
            yield from self._of_standing(entry, run, standing, run_drew)
        yield from self._of_refusal(entry)
        for facts in (entry.limits.counted, entry.limits.standings):
            keys = [fact.key for fact in facts]
            if len(set(keys)) < len(keys):
                yield "names a limit twice"

    def _of_count(
        self, entry: Entry, run: RunContext, counted: Counted, run_counted: CountedByRun
    ) -> Iterator[str]:
        key, drawn = counted.key, entry.drawn_microcredits
        if counted.ends_at <= entry.recorded_at:
            yield f"counts under the limit of {key} in a period that was over"
        elif not self._is_of_period(key, counted.ends_at, entry.recorded_at):
            yield f"counts under the limit of {key} in another period than the account"
        if entry.outcome == "returned":
            back = min(run_counted.get((key, counted.ends_at), 0), drawn)
            if not 0 < -counted.microcredits <= back:
                yield (
                    f"takes {amount_text(-counted.microcredits)} from the count of the limit of"
                    f" {key}, of which its run gave back {amount_text(back)}"
                )
        elif not _is_of_run(key, entry, run):
            yield f"counts under the limit of {key}, which is not one of its run"
        elif counted.microcredits != drawn:
            yield (
                f"counts {amount_text(counted.microcredits)} under the limit of {key}, but drew"
                f" {amount_text(drawn)}"
            )

    def _of_standing(
        self, entry: Entry, run: RunContext, standing: LimitStanding, run_drew: int
    ) -> Iterator[str]:
        key, now = standing.key, entry.recorded_at
        there = self._counts.get(key)
        if not _is_of_run(key, entry, run):
            yield f"names the limit of {key}, which is not one of its run"
        if key.period == "run":
            own = self._reserved.by_run.get(entry.identity.subject)
            drawn, held = run_drew, own.left_microcredits if own else 0
        else:
            is_same = there is not None and there.ends_at == standing.resets_at
            drawn = there.drawn_microcredits if there is not None and is_same else 0
            held = self._reserved.held_under(key)
        resets_at = standing.resets_at
        if resets_at is not None and not self._is_of_period(key, resets_at, now):
            yield f"states another period of the limit of {key} than the account counted in"
            return
        states = (standing.drawn_microcredits, standing.held_microcredits)
        if _is_of_one_account(key):
            is_right = states == (drawn, held)
        else:
            # Other accounts may have drawn and reserved as well.
            is_right = states[0] >= drawn and states[1] >= held
        if not is_right:
            yield (
                f"states {amount_text(states[0])} drawn and {amount_text(states[1])} reserved under"
                f" the limit of {key}, but its account had drawn {amount_text(drawn)} and reserved"
                f" {amount_text(held)}"
            )

    def _of_refusal(self, entry: Entry) -> Iterator[str]:
        refused_by = entry.limits.refused_by
        if refused_by is None:
            return
        drawn = entry.drawn_microcredits
        left = max(refused_by.limit_microcredits - refused_by.drawn_microcredits, 0)
        if not refused_by.stops:
            yield f"is refused by the limit of {refused_by.key}, which only warns"
        elif drawn > (0 if refused_by.cannot_count else left):
            yield (
                f"draws {amount_text(drawn)} under the limit of {refused_by.key}, which left"
                f" {amount_text(left)}"
            )
        elif entry.type == "agent_run.usage" and not self._holds(entry):
            # Whichever limit left the least. One that was lifted may have left less.
            rooms = {s.room_microcredits for s in entry.limits.standings if s.stops}
            if drawn not in rooms:
                yield f"draws {amount_text(drawn)}, which none of its limits left"

    def _holds(self, entry: Entry) -> bool:
        """Return whether its run holds a reservation, which it may draw beyond the room."""
        return entry.identity.subject in self._reserved.by_run

    def _is_of_period(self, key: LimitKey, ends_at: datetime, now: datetime) -> bool:
        """Return whether a count of the account that goes on is of the period that ends then.

        An account takes the period of a limit that begins to span accounts from the limit's row.
        """
        there = self._counts.get(key)
        if there is None or not there.is_current(now) or not _is_of_one_account(key):
            return True
        return there.ends_at == ends_at


def _may_count(entry: Entry) -> bool:
    match entry.outcome:
        case "accepted":
            return bool(entry.reservation.moves)
        case "debited" | "insufficient":
            return entry.type == "agent_run.usage"
        case outcome:
            return outcome == "returned"


def _is_of_one_account(key: LimitKey) -> bool:
    """Return whether nothing of other accounts ever counts under the limit."""
    return key.scope == "member" or key.period == "run"


def _is_of_run(key: LimitKey, entry: Entry, run: RunContext) -> bool:
    ids = {
        "team": run.team_id,
        "project": run.project_id,
        "member": run.trigger_id if run.trigger_kind == "user" else None,
        "run": entry.identity.subject,
    }
    return key.team_id == run.team_id and key.id == ids[key.scope]
