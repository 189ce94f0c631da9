"""The models of the write protocol and of the reload saga, and that they notice what is broken."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from msgspec.structs import replace

from agent_credits.commit.beside import Beside
from agent_credits.commit.limits import count_returned
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Draw, Entry
from agent_credits.ledger.limits import Counted
from agent_credits.payments.reload_saga import ReloadSaga
from tests.simulation import (
    limit_model,
    mutants,
    reload_saga_model,
    reservation_model,
    write_protocol_model,
)
from tests.simulation.explore import (
    CAP_FALLS,
    KIND_CHANGES,
    MODELS,
    ONE_ASKS,
    POLICY_CHANGES,
    ROOM_FOR_TWO,
    TWO_ASK,
    USAGE,
    asks_again,
    limits,
    reservations,
    saga,
)
from tests.simulation.limit_model import LimitMutant
from tests.simulation.reload_saga_model import Begins
from tests.simulation.write_protocol_model import Mutant

# How long a model takes says something about the machine; this ends one that never ends.
pytestmark = pytest.mark.timeout(1_200)

# Fewer than this, and a model no longer interleaves what it is there to interleave.
STATES_MIN = 20_000


@pytest.mark.parametrize("name", MODELS)
def test_every_interleaving_keeps_the_invariants(name: str) -> None:
    assert MODELS[name]() > STATES_MIN


def test_reading_ahead_allows_the_same_interleavings_and_no_others() -> None:
    together = write_protocol_model.Model(USAGE[:2], entries_full=1, reads_ahead=True)
    alone = write_protocol_model.Model(USAGE[:2], entries_full=1)

    assert together.explore() == alone.explore() > 1_000


@pytest.mark.parametrize("reads_ahead", [False, True])
@pytest.mark.parametrize(
    ("mutant", "violation"),
    [
        pytest.param(Mutant(receipts_before_row=True), "never changes|entries leave", id="reads"),
        pytest.param(Mutant(flush=False), "the row holds what the entries leave", id="no_flush"),
        pytest.param(
            Mutant(receipts_with_page=False),
            "the row holds what the entries leave",
            id="page_without_receipts",
        ),
        pytest.param(
            Mutant(version_condition=False),
            "the row holds what the entries leave|acknowledged implies recorded",
            id="no_version_condition",
        ),
    ],
)
def test_a_broken_protocol_is_caught(mutant: Mutant, violation: str, reads_ahead: bool) -> None:
    model = write_protocol_model.Model(
        USAGE[:2], entries_full=1, mutant=mutant, reads_ahead=reads_ahead
    )
    with pytest.raises(AssertionError, match=violation):
        model.explore()


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(Mutant(flush=False), id="no_flush"),
        pytest.param(Mutant(receipts_with_page=False), id="page_without_receipts"),
        pytest.param(Mutant(version_condition=False), id="no_version_condition"),
    ],
)
def test_a_broken_protocol_loses_reservations_and_is_caught(mutant: Mutant) -> None:
    with pytest.raises(AssertionError, match=r".+"):
        reservations(reservation_model.SETTLES, (1, 2, 1), mutant=mutant)


def test_code_of_before_that_could_read_a_row_with_reservations_would_lose_them() -> None:
    with pytest.raises(AssertionError, match="a grant is available, reserved, burned or expired"):
        reservations(reservation_model.MIXED, (2, 1, 1), [], one_is_old=True, renames_grants=False)


def test_a_rejection_by_a_stale_row_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "agent_credits.commit.write_protocol.must_be_newest", lambda *_, is_warm: is_warm
    )

    with pytest.raises(AssertionError, match="no live reservation is taken for ended"):
        reservations(reservation_model.UNKNOWN_AT_FIRST, (1, 2, 1), [])


def test_a_reservation_that_never_expires_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "agent_credits.ledger.expiry._expire_reservations", lambda account, _: account
    )

    with pytest.raises(AssertionError, match="whose time is over ends with the next commit"):
        reservations(reservation_model.SETTLES, (1, 2, 1))


@pytest.mark.parametrize(
    ("broken", "violation"),
    [
        (mutants.ReservesAfterCharging, "nothing is charged that is not reserved"),
        (mutants.StoresNoPayment, "nothing is charged that the row does not name"),
        (mutants.ReleasesOnUnknownOutcome, "what is charged is on the row"),
        (mutants.SettlesBeforeGranting, "no credits are owed"),
        (mutants.GrantsBeforeItIsPaid, "no credits unpaid"),
        (mutants.ShutsNobodyOut, "what nobody asks about any more has ended"),
    ],
)
def test_a_broken_saga_is_caught(broken: type[ReloadSaga], violation: str) -> None:
    with pytest.raises(AssertionError, match=violation):
        reload_saga_model.Model(broken, **ONE_ASKS).explore()


@pytest.mark.parametrize(
    ("broken", "bounds", "violation"),
    [
        (mutants.BuysWhatTheSettingsSay, KIND_CHANGES, "bought into a pool that the run draws"),
        (mutants.LooksPacksUpInTheTenure, POLICY_CHANGES, "not declined for want of it"),
        (mutants.DeclinesUnsoldPacksForGood, POLICY_CHANGES, "a decline .* has an end"),
    ],
)
def test_a_saga_that_misreads_a_file_applied_meanwhile_is_caught(
    broken: type[ReloadSaga], bounds: dict[str, Any], violation: str
) -> None:
    with pytest.raises(AssertionError, match=violation):
        reload_saga_model.Model(broken, **bounds).explore()


def test_a_saga_that_charges_whatever_the_cap_is_now_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent_credits.payments.reload_saga._passes_cap", lambda *_: False)

    with pytest.raises(AssertionError, match="a lowered cap charges no card"):
        saga(CAP_FALLS)


def test_a_purchase_made_again_on_an_old_read_is_caught_where_the_cap_does_not_hide_it() -> None:
    with pytest.raises(AssertionError, match="what nobody asks about any more has ended"):
        reload_saga_model.Model(mutants.ReservesOnAnOldRead, **ROOM_FOR_TWO).explore()


def test_a_row_written_without_its_version_condition_is_caught() -> None:
    with pytest.raises(AssertionError, match=r".+"):
        reload_saga_model.Model(ReloadSaga, **TWO_ASK, checks_version=False).explore()


@pytest.mark.parametrize("earlier", ["made", "processing", "paid"])
def test_a_second_reload_beside_an_open_one_is_caught(
    earlier: Begins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_credits.payments.reload_saga._open_reload", lambda *_: None)

    with pytest.raises(AssertionError, match="one live reload per account"):
        saga(asks_again(earlier))


@pytest.mark.parametrize(
    ("mutant", "violation"),
    [
        pytest.param(LimitMutant(limit_version=False), "a limit is never passed", id="no_version"),
        pytest.param(LimitMutant(together=False), "moves the row", id="written_apart"),
    ],
)
def test_a_limit_s_row_that_does_not_move_with_its_accounts_is_caught(
    mutant: LimitMutant, violation: str
) -> None:
    with pytest.raises(AssertionError, match=violation):
        limits(limit_model.DRAWS, (2, 2), limit_model.NEXT_DAY, mutant=mutant)


def test_room_that_goes_back_to_the_wrong_period_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def to_the_newest(
        account: Account, entries: Sequence[Entry], returned: Sequence[Draw], now: datetime
    ) -> tuple[Account, tuple[Counted, ...]]:
        newest = {count.key: count.ends_at for count in account.limit_counts}
        moved = [
            replace(
                entry,
                limits=replace(
                    entry.limits,
                    counted=tuple(
                        replace(found, ends_at=newest.get(found.key, found.ends_at))
                        for found in entry.limits.counted
                    ),
                ),
            )
            for entry in entries
        ]
        return count_returned(account, moved, returned, now)

    monkeypatch.setattr("agent_credits.commit.runs.count_returned", to_the_newest)

    with pytest.raises(AssertionError, match="no more comes back in a period"):
        limits(limit_model.GIVES_BACK, (1, 1, 1), limit_model.NEXT_DAY, before=limit_model.DRAWN)


def test_a_slow_clock_that_is_not_held_back_by_a_limit_s_row_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def by_the_account_alone(account: Account, _: Beside, now: datetime) -> datetime:
        return max([now, *(entry.recorded_at for entry in account.entries[-1:])])

    monkeypatch.setattr("agent_credits.commit.decide._not_before", by_the_account_alone)

    with pytest.raises(AssertionError, match=r"nothing but a race stops a commit: no more"):
        limits(limit_model.SETTLES, (1, 1, 1), limit_model.EXPIRED, before=limit_model.RESERVED)
