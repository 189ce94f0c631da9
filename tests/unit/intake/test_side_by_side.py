"""Accounts of one batch are committed side by side, and read for together."""

import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agent_credits.intake.debits
from agent_credits.aws.threads import Threads
from agent_credits.billing.directory import Directory
from agent_credits.billing.teams import Team
from agent_credits.commit.write_protocol import CHANGES_PER_COMMIT_MAX
from agent_credits.intake.debited_batch import DebitedBatch, Delivery
from agent_credits.intake.debits import Debits
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Page, Receipt
from agent_credits.notices.observations import Observation
from agent_credits.values.errors import OutOfTime, RowNotUnderstood, RowsUnavailable
from agent_credits.values.principals import Principal
from agent_credits.values.side_by_side import in_turn
from tests.dispositions import postponed
from tests.memory_rows import MemoryRows
from tests.unit.builders import (
    ACME,
    NOW,
    body,
    grant_change,
    history,
    open_account,
    pause,
    provider_error,
    settle,
    usage,
)

Result = TypeVar("Result")

USERS = tuple(f"user-{number}" for number in range(6))
ACCOUNTS = tuple(Principal("user", user) for user in USERS)


class CountedRows(MemoryRows):
    """Rows of six accounts that note the calls made to them, in their order."""

    def __init__(self, credits: str = "1000") -> None:  # noqa: A002
        super().__init__()
        settle(self)
        self.teams["acme"] = ACME.model_copy(update={"members": frozenset({"olga", *USERS})})
        self.calls: list[str] = []
        # What goes wrong, or has to happen, once the accounts are open.
        self.not_understood: Principal | None = None
        self.before_writing: Callable[[Principal], None] = lambda _: None
        for principal in ACCOUNTS:
            open_account(self, grant_change("g-1", credits=credits, principal=principal))
        self.calls.clear()

    def read_account(self, principal: Principal) -> Account | None:
        self.calls.append(f"read {principal}")
        self._understand([principal])
        return super().read_account(principal)

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        self.calls.append(f"read {len(principals)} accounts")
        self._understand(principals)
        return super().read_accounts_of(principals)

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        self.calls.append(f"read receipts of {len(identities)}")
        return super().read_receipts(identities)

    def flush_and_read_receipts(
        self, pages: Collection[Page], identities: Collection[Identity]
    ) -> Mapping[Identity, Receipt]:
        self.calls.append(f"flush {len(pages)}")
        return super().flush_and_read_receipts(pages, identities)

    def read_team(self, team_id: str) -> Team | None:
        self.calls.append(f"read team {team_id}")
        return super().read_team(team_id)

    def compare_and_set(self, account: Account) -> Account | None:
        self.calls.append("write")
        if account.version > 1:
            self.before_writing(account.principal)
        return super().compare_and_set(account)

    def _understand(self, principals: Collection[Principal]) -> None:
        if self.not_understood in principals:
            raise RowNotUnderstood(f"ACCOUNT#{self.not_understood}: KeyError")


def debits_of(rows: MemoryRows, side_by_side: Any = in_turn) -> Debits:
    return Debits(rows, Directory(rows), pause, side_by_side=side_by_side)


def deliver(
    debits: Debits, *bodies: str, time_is_left: Callable[[], bool] = lambda: True
) -> DebitedBatch:
    deliveries = [Delivery(f"m{number}", text) for number, text in enumerate(bodies)]
    return debits.debit(deliveries, now=NOW, time_is_left=time_is_left)


def one_of_each(name: str, users: Sequence[str] = USERS) -> list[str]:
    return [body(usage(f"{name}-{user}", user=user, run=f"run-{name}-{user}")) for user in users]


def recorded_ids(rows: MemoryRows, principal: Principal) -> list[str]:
    return [e.identity.id for e in history(rows, principal) if e.identity.realm == "RUN"]


def test_rows_and_receipts_of_all_accounts_are_read_together() -> None:
    rows = CountedRows()

    batch = deliver(debits_of(rows), *one_of_each("e"))

    assert batch.failed_message_ids == []
    assert [call for call in rows.calls if "team" not in call] == [
        "read 6 accounts",
        "read receipts of 6",
        *["write"] * 6,
    ]
    assert [recorded_ids(rows, p) for p in ACCOUNTS] == [[f"e-{user}"] for user in USERS]


def test_full_pages_of_several_accounts_are_flushed_together_while_receipts_are_read() -> None:
    rows = CountedRows()
    debits = debits_of(rows)
    while not rows.accounts[ACCOUNTS[0]].page_is_full:
        deliver(debits, *one_of_each(f"before-{len(rows.stream)}"))
    rows.calls.clear()

    deliver(debits, *one_of_each("e"))

    assert rows.calls == ["flush 6", "read receipts of 6", *["write"] * 6]
    assert {account.page_number for account in rows.accounts.values()} == {2}


def test_of_accounts_that_this_worker_committed_last_no_row_is_read() -> None:
    rows = CountedRows()
    debits = debits_of(rows)
    deliver(debits, *one_of_each("e1", USERS[:4]))
    rows.calls.clear()

    deliver(debits, *one_of_each("e2"))

    assert rows.calls[0] == "read 2 accounts"


def test_an_account_alone_is_read_by_itself() -> None:
    rows = CountedRows()

    deliver(debits_of(rows), *one_of_each("e", USERS[:1]))

    assert rows.calls[1:] == [f"read {ACCOUNTS[0]}", "read receipts of 1", "write"]


def test_accounts_are_read_together_in_parts_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent_credits.intake.debits, "ACCOUNTS_READ_AHEAD", 4)
    rows = CountedRows()

    deliver(debits_of(rows), *one_of_each("e"))

    assert [call for call in rows.calls if call.endswith("accounts")] == [
        "read 4 accounts",
        "read 2 accounts",
    ]


def test_a_row_that_nobody_understands_fails_its_own_account_alone() -> None:
    rows = CountedRows()
    rows.not_understood = ACCOUNTS[2]

    batch = deliver(debits_of(rows), *one_of_each("e"))

    assert postponed(batch).keys() == {"m2"}
    assert [len(rows.accounts[p].entries) for p in ACCOUNTS] == [2, 2, 1, 2, 2, 2]


def test_accounts_are_written_at_the_same_time() -> None:
    rows = CountedRows()
    together = threading.Barrier(len(ACCOUNTS), timeout=10)
    rows.before_writing = lambda _: together.wait() and None

    batch = deliver(debits_of(rows, Threads(len(ACCOUNTS))), *one_of_each("e"))

    assert batch.failed_message_ids == []
    assert [recorded_ids(rows, p) for p in ACCOUNTS] == [[f"e-{user}"] for user in USERS]


def test_a_write_that_fails_affects_no_other_account() -> None:
    def fail(principal: Principal) -> None:
        if principal == ACCOUNTS[3]:
            raise RowsUnavailable("throttled")

    rows = CountedRows()
    rows.before_writing = fail

    batch = deliver(debits_of(rows, Threads(4)), *one_of_each("e"))

    assert postponed(batch).keys() == {"m3"}
    assert [len(recorded_ids(rows, p)) for p in ACCOUNTS] == [1, 1, 1, 0, 1, 1]


def test_after_an_error_the_row_is_read_again() -> None:
    def fail(_: Principal) -> None:
        raise RowsUnavailable("throttled")

    rows = CountedRows()
    debits = debits_of(rows)
    deliver(debits, *one_of_each("e1"))
    rows.before_writing = fail
    deliver(debits, *one_of_each("e2", USERS[:2]))
    rows.before_writing = lambda _: None
    rows.calls.clear()

    deliver(debits, *one_of_each("e2"))

    assert rows.calls[0] == "read 2 accounts"


def test_what_an_account_has_for_several_commits_is_committed_in_order() -> None:
    rows = CountedRows()
    events = [
        usage(f"e{n:04}-{user}", user=user)
        for n in range(CHANGES_PER_COMMIT_MAX + 50)
        for user in USERS[:2]
    ]

    batch = deliver(debits_of(rows, Threads(4)), *(body(event) for event in events))

    assert batch.failed_message_ids == []
    for user, principal in zip(USERS[:2], ACCOUNTS[:2], strict=True):
        ids = [event["id"] for event in events if event["id"].endswith(user)]
        assert recorded_ids(rows, principal) == ids


def test_repeats_that_take_several_commits_are_all_recognised_by_a_worker_that_reads_ahead() -> (
    None
):
    rows = CountedRows()
    many = CHANGES_PER_COMMIT_MAX + 50
    bodies = [body(usage(f"e{n:04}-{user}", user=user)) for n in range(many) for user in USERS[:2]]
    deliver(debits_of(rows), *bodies)
    # One more commit, so that everything before it has left the page.
    deliver(debits_of(rows), *one_of_each("last"))
    before = dict(rows.accounts)

    batch = deliver(debits_of(rows), *bodies)

    assert {outcome.name for outcome in batch.outcomes} == {"already_recorded"}
    assert len(batch.outcomes) == len(bodies)
    assert rows.accounts == before


def test_time_is_asked_for_before_each_commit_begins() -> None:
    rows = CountedRows()
    left = iter([True, True, True, False, False, False, False])

    batch = deliver(debits_of(rows), *one_of_each("e"), time_is_left=lambda: next(left))

    assert [type(why) for why in postponed(batch).values()] == [OutOfTime] * 4
    assert [len(recorded_ids(rows, p)) for p in ACCOUNTS] == [1, 1, 0, 0, 0, 0]


def test_reports_of_one_error_are_recorded_once_and_others_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=10)

    class Observed(CountedRows):
        def put_observation(self, observation: Observation, now: Any) -> bool:
            together.wait()
            return super().put_observation(observation, now)

    rows = Observed()
    reports = [
        provider_error("e1", user=USERS[0], run="run-1"),
        provider_error("e1", user=USERS[0], run="run-1"),
        provider_error("e2", user=USERS[0], run="run-2"),
    ]

    batch = deliver(debits_of(rows, Threads(2)), *(body(report) for report in reports))

    assert sorted((r.message_id, r.is_new) for r in batch.reported) == [
        ("m0", True),
        ("m1", False),
        ("m2", True),
    ]


events = st.lists(
    st.tuples(
        st.sampled_from(USERS),
        st.integers(min_value=1, max_value=8),
        st.sampled_from(["1", "30", "400"]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(events, st.randoms(use_true_random=False))
def test_accounts_side_by_side_come_out_as_in_turn(
    drawn: list[tuple[str, int, str]], chance: random.Random
) -> None:
    def in_any_order(calls: Sequence[Callable[[], Result]]) -> list[Result]:
        order = [*range(len(calls))]
        chance.shuffle(order)
        made = {number: calls[number]() for number in order}
        return [made[number] for number in range(len(calls))]

    bodies = [
        body(usage(f"e{n}-{user}", amount, user=user, run=f"run-{user}-{n}"))
        for user, n, amount in drawn
    ]
    outcomes = {}
    accounts = {}
    for name, side_by_side in (("in turn", in_turn), ("side by side", in_any_order)):
        rows = CountedRows()
        debits = debits_of(rows, side_by_side)
        half = len(bodies) // 2
        batches = [deliver(debits, *bodies[:half]), deliver(debits, *bodies[half:])]
        outcomes[name] = [[(o.message_id, o.name) for o in batch.outcomes] for batch in batches]
        accounts[name] = rows.accounts

    assert outcomes["side by side"] == outcomes["in turn"]
    assert accounts["side by side"] == accounts["in turn"]
