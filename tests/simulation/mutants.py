"""Ways in which the code could be wrong; the simulator must notice each within a few seeds."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

from msgspec.structs import replace

from agent_credits.billing.spend_cap import CapReservation, release, settle
from agent_credits.billing.teams import Billing, Team
from agent_credits.commit.rows import LostTogether
from agent_credits.commit.team_changes import read_team
from agent_credits.events.agent_runs import AgentRunEvent, Rejection
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Page, Receipt
from agent_credits.ledger.limits import LimitRow
from agent_credits.ledger.reloads import ReloadRequest
from agent_credits.ledger.reservations import ReservationTerms
from agent_credits.notices.announcements import AccountRecord, StreamRecord
from agent_credits.notices.observations import Observation
from agent_credits.payments.port import Charge, Paid, PaymentUnavailable
from agent_credits.payments.reload_saga import ReloadSaga, Resolution
from agent_credits.values.errors import QueueUnavailable, RowsUnavailable
from agent_credits.values.principals import Principal
from tests.simulation.outside import Message
from tests.simulation.workers import AnnounceWorker, DebitWorker, NotingDirectory, Parts, WorkerRows


class NeverFlushes(WorkerRows):
    def put_page(self, page: Page) -> None:
        """Let the full page go: the next one overwrites it on the row."""


class WritesNoReceipts(WorkerRows):
    def put_page(self, page: Page) -> None:
        put = partial(self._rows.put_item, page)
        self._worker.put_items(f"put page {page.number} alone", [put], RowsUnavailable)


class WritesNoPage(WorkerRows):
    def put_page(self, page: Page) -> None:
        receipts = [Receipt(page.principal, page.number, entry) for entry in page.entries]
        puts = [partial(self._rows.put_item, receipt) for receipt in receipts]
        self._worker.put_items(f"put receipts of {page.number} alone", puts, RowsUnavailable)


class ReadsReceiptsFirst(WorkerRows):
    """Receipts as they were before the row was read: the gap that the order of the reads closes."""

    _known: Mapping[Identity, Receipt] = {}

    def read_account(self, principal: Principal) -> Account | None:
        self._known = dict(self._rows.receipts)
        return super().read_account(principal)

    def read_accounts_of(self, principals: Collection[Principal]) -> Mapping[Principal, Account]:
        self._known = dict(self._rows.receipts)
        return super().read_accounts_of(principals)

    def read_receipts(self, identities: Collection[Identity]) -> Mapping[Identity, Receipt]:
        super().read_receipts(identities)
        return {i: self._known[i] for i in identities if i in self._known}


class LosesObservations(WorkerRows):
    def put_observation(self, _: Observation, __: datetime) -> bool:
        return True


class ObservesAgain(WorkerRows):
    """What is there already is put once more."""

    def put_observation(self, observation: Observation, now: datetime) -> bool:
        self._rows.observations.clear()
        return super().put_observation(observation, now)


class ForgetsReservations(WorkerRows):
    """The row as code of before reservations would write it, if it could read one that has any."""

    def compare_and_set(self, account: Account) -> Account | None:
        return super().compare_and_set(replace(account, reservations=()))


class ForgetsWhatRunsDrew(WorkerRows):
    def compare_and_set(self, account: Account) -> Account | None:
        kept = tuple(replace(held, drawn_microcredits=0) for held in account.reservations)
        return super().compare_and_set(replace(account, reservations=kept))


class ForgetsCounts(WorkerRows):
    """The rows as code of before limits would write them, if it could read those that count."""

    def compare_and_set(self, account: Account) -> Account | None:
        return super().compare_and_set(_without_counts(account))

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        return super().compare_and_set_together([*map(_without_counts, accounts)], limits)


def _without_counts(account: Account) -> Account:
    kept = tuple(replace(held, limits=()) for held in account.reservations)
    return replace(account, limit_counts=(), reservations=kept)


class WritesLimitsApart(WorkerRows):
    """The accounts in one transaction, and the limits' rows in the next."""

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        lost = super().compare_and_set_together(accounts, ())
        return lost or super().compare_and_set_together((), limits)


class ForgetsWhatIsHeld(WorkerRows):
    """A limit's row counts what was drawn, and not what is reserved."""

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        drawn_only = [replace(row, held=()) for row in limits]
        return super().compare_and_set_together(accounts, drawn_only)


class DrawsWithoutMirror(WorkerRows):
    """What a payer draws of a shared pool, and the team's row knows nothing of it."""

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        return super().compare_and_set_together(_payers(accounts), limits)


class WritesTeamsApart(WorkerRows):
    """The payers in one transaction, and the teams whose pools they draw in the next."""

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        payers = _payers(accounts)
        lost = super().compare_and_set_together(payers, limits)
        teams = [account for account in accounts if account not in payers]
        return lost or super().compare_and_set_together(teams, ())


class ForgetsWhatPayersHold(WorkerRows):
    """A team's row gives what was drawn, and not what is reserved."""

    def compare_and_set_together(
        self, accounts: Sequence[Account], limits: Sequence[LimitRow]
    ) -> LostTogether | None:
        payers = _payers(accounts)
        teams = [replace(a, reservations=()) for a in accounts if a not in payers]
        return super().compare_and_set_together([*payers, *teams], limits)


def _payers(accounts: Sequence[Account]) -> list[Account]:
    """Return those of a transaction that draw; a team that pays by itself draws no other's pool."""
    return [account for account in accounts if account.principal.kind != "team"]


class WithoutLimits(NotingDirectory):
    def bill(self, event: AgentRunEvent, now: datetime) -> Billing | Rejection:
        billing = super().bill(event, now)
        return billing if isinstance(billing, Rejection) else replace(billing, limits=())


class IgnoresLimits(DebitWorker):
    directory = WithoutLimits


class AcknowledgesFirst(DebitWorker):
    def _debit(self, deliveries: Mapping[int, tuple[Message, int]]) -> None:
        done = {number: message.sent for number, (message, _) in deliveries.items()}
        self._call_queue(f"acknowledge {[*done]}", lambda: self._acknowledge(done))
        super()._debit(deliveries)


class AnnouncesAtMostOnce(AnnounceWorker):
    def _announce(self, start: int, end: int) -> None:
        self.history.announced = min(end, len(self.history.rows.changes))
        super()._announce(start, end)


class LosesNoticesOnFaults(AnnounceWorker):
    def _announce_one(self, change: StreamRecord) -> None:
        try:
            super()._announce_one(change)
        except QueueUnavailable:
            return


class ForgetsWhatWasTold(WorkerRows):
    """The row as an older version of the code writes it, which knows nothing of low credits."""

    def compare_and_set(self, account: Account) -> Account | None:
        return super().compare_and_set(replace(account, low=None))


class ForgetsErroredRuns(WorkerRows):
    """Late usage is charged, though its run ended in a platform error."""

    def compare_and_set(self, account: Account) -> Account | None:
        return super().compare_and_set(replace(account, errored_runs=()))


class TellsAtEveryCommit(AnnounceWorker):
    """As long as an account is low, and not only when it falls."""

    def _announce_one(self, change: StreamRecord) -> None:
        if isinstance(change, AccountRecord) and change.new.low and change.new.low.notified:
            low = replace(change.new.low, notified_at_version=change.new.version)
            change = AccountRecord(change.old, replace(change.new, low=low))
        super()._announce_one(change)


class SaysNothingOfOverdrawnRuns(AnnounceWorker):
    def _announce_one(self, change: StreamRecord) -> None:
        if isinstance(change, AccountRecord):
            entries = tuple(
                replace(entry, reservation=replace(entry.reservation, overruns=False))
                for entry in change.new.entries
            )
            change = AccountRecord(change.old, replace(change.new, entries=entries))
        super()._announce_one(change)


class ReservesAfterCharging(ReloadSaga):
    def _reserve(self, request, now):  # type: ignore[no-untyped-def]
        team = read_team(self._teams, request.team_id)
        account = self._rows.read_account(request.principal)
        found = self._priced(request, team, account, now)
        if isinstance(found, CapReservation) and account.reload:
            payments = self._payments[found.method.provider]
            charge = Charge(
                found.purchase_id, found.price_cents, found.currency, found.method, "a purchase"
            )
            payment_id = payments.create(charge)
            if isinstance(payment_id, str):
                payments.confirm(payment_id)
        return super()._reserve(request, now)


class StoresNoPayment(ReloadSaga):
    def _stored(self, _: ReloadRequest, payment_id: str) -> str:
        return payment_id


class ReleasesOnUnknownOutcome(ReloadSaga):
    def _charge(self, request, held, now) -> Resolution:  # type: ignore[no-untyped-def]
        if isinstance(self._payment_state(request, held, now), PaymentUnavailable):
            team = read_team(self._teams, request.team_id)
            left = team.spending.reservation(held.purchase_id)
            payment_id = left.payment_id if left else None
            team = self._change_spending(
                request, lambda t: release(t.spending, held.purchase_id, payment_id, now)
            )
            return self._decline(request, "payment_unavailable", team, now)
        return super()._charge(request, held, now)


class SettlesBeforeGranting(ReloadSaga):
    def _grant(self, request, held, now) -> None:  # type: ignore[no-untyped-def]
        self._change_spending(
            request, lambda t: settle(t.spending, held.purchase_id, t.spend_cap_cents, now)
        )
        super()._grant(request, held, now)


class GrantsBeforeItIsPaid(ReloadSaga):
    def _payment_state(self, request, held, now):  # type: ignore[no-untyped-def]
        state = super()._payment_state(request, held, now)
        return Paid("hopefully") if isinstance(state, PaymentUnavailable) else state


class BuysWhatTheSettingsSay(ReloadSaga):
    """Into the settings' pool, whether the run that asked draws it or not."""

    def _priced(self, request, team, account, now):  # type: ignore[no-untyped-def]
        if account.reload and team.auto_reload:
            pools = (*account.reload.pools, team.auto_reload.pool)
            account = replace(account, reload=replace(account.reload, pools=pools))
        return super()._priced(request, team, account, now)


class LooksPacksUpInTheTenure(ReloadSaga):
    """In the policy that is in force, though the settings came with the next one."""

    def _priced(self, request, team, account, now):  # type: ignore[no-untyped-def]
        in_force = team.model_copy(update={"tenures": (team.tenure_at(now),)})
        return super()._priced(request, in_force, account, now)


class DeclinesUnsoldPacksForGood(LooksPacksUpInTheTenure):
    """As if the settings had switched reloads off: until they change again, which may be never."""

    def _priced(self, request, team, account, now):  # type: ignore[no-untyped-def]
        priced = super()._priced(request, team, account, now)
        return "auto_reload_off" if priced == "auto_reload_not_applicable" else priced


class ByEachEventsTime(NotingDirectory):
    def bill(self, event: AgentRunEvent, now: datetime) -> Billing | Rejection:
        data = event.data.model_copy(update={"started_at": None})
        return super().bill(event.model_copy(update={"data": data}), now)


class WithoutReservations(NotingDirectory):
    def bill(self, event: AgentRunEvent, now: datetime) -> Billing | Rejection:
        billing = super().bill(event, now)
        if isinstance(billing, Rejection):
            return billing
        return replace(billing, reservation=ReservationTerms())


class IgnoresWhatThePolicyReserves(DebitWorker):
    directory = WithoutReservations


class IgnoresWhenARunBegan(DebitWorker):
    directory = ByEachEventsTime


class ForgetsWhoLeft(WorkerRows):
    """Membership as of now, whatever the event's time."""

    def read_team(self, team_id: str) -> Team | None:
        team = super().read_team(team_id)
        return team.model_copy(update={"former_members": ()}) if team else None


class ShutsNobodyOut(ReloadSaga):
    """A reload that ends without a reservation leaves the team's row as it is."""

    def _reserved_meanwhile(self, _: ReloadRequest) -> None:
        return None


class ReservesOnAnOldRead(ReloadSaga):
    """The account is read once, before the team's row, and not again when that row changed."""

    def resolve(self, request, now) -> Resolution:  # type: ignore[no-untyped-def]
        rows, account = self._rows, self._rows.read_account(request.principal)
        self._rows = _Remembering(rows, account)
        try:
            return super().resolve(request, now)
        finally:
            self._rows = rows


class _Remembering:
    def __init__(self, rows, account) -> None:  # type: ignore[no-untyped-def]
        self._account = account
        self.read_receipts, self.read_run = rows.read_receipts, rows.read_run
        self.compare_and_set, self.put_page = rows.compare_and_set, rows.put_page
        self.flush_and_read_receipts = rows.flush_and_read_receipts

    def read_account(self, _: Principal) -> Account | None:
        return self._account


# What takes an interleaving that few seeds reach is left to the exhaustive model of the saga, which
# catches `ShutsNobodyOut` and `ReservesOnAnOldRead` as well.
MUTANTS: Mapping[str, Parts] = {
    "no version condition": Parts(checks_version=False),
    "no flush": Parts(rows=NeverFlushes),
    "page without receipts": Parts(rows=WritesNoReceipts),
    "receipts without page": Parts(rows=WritesNoPage),
    "receipts read before the row": Parts(rows=ReadsReceiptsFirst),
    "observation not put": Parts(rows=LosesObservations),
    "observation put again": Parts(rows=ObservesAgain),
    "acknowledged before it is recorded": Parts(debits=AcknowledgesFirst),
    "stream record done before it is announced": Parts(announcer=AnnouncesAtMostOnce),
    "notice lost where the topic fails": Parts(announcer=LosesNoticesOnFaults),
    "what was told is forgotten": Parts(rows=ForgetsWhatWasTold),
    "late usage is charged": Parts(rows=ForgetsErroredRuns),
    "told again while it is low": Parts(announcer=TellsAtEveryCommit),
    "reserved after the charge": Parts(saga=ReservesAfterCharging),
    "charged without a stored payment": Parts(saga=StoresNoPayment),
    "released on an unknown outcome": Parts(saga=ReleasesOnUnknownOutcome),
    "settled before the credits are granted": Parts(saga=SettlesBeforeGranting),
    "granted before it is paid": Parts(saga=GrantsBeforeItIsPaid),
    "bought into a pool of the settings alone": Parts(saga=BuysWhatTheSettingsSay),
    "packs of the policy in force": Parts(saga=LooksPacksUpInTheTenure),
    "declined for good for want of a pack": Parts(saga=DeclinesUnsoldPacksForGood),
    "billed by each event's time": Parts(debits=IgnoresWhenARunBegan),
    "removed with all that was used": Parts(rows=ForgetsWhoLeft),
}
# What only histories whose runs reserve can notice.
RESERVING_MUTANTS: Mapping[str, Parts] = {
    "reservations are forgotten": Parts(rows=ForgetsReservations),
    "what runs drew of reservations is forgotten": Parts(rows=ForgetsWhatRunsDrew),
    "what the policy reserves is not reserved": Parts(debits=IgnoresWhatThePolicyReserves),
    "overdrawn runs are not announced": Parts(announcer=SaysNothingOfOverdrawnRuns),
}
# What only histories where limits hold can notice.
LIMITING_MUTANTS: Mapping[str, Parts] = {
    "no version on the limit's row": Parts(checks_limits=False),
    "the limit's row written apart": Parts(rows=WritesLimitsApart),
    "what is reserved is not counted": Parts(rows=ForgetsWhatIsHeld),
    "counts are forgotten": Parts(rows=ForgetsCounts),
    "limits are ignored": Parts(debits=IgnoresLimits),
}
# What only histories whose teams share pools can notice.
SHARING_MUTANTS: Mapping[str, Parts] = {
    "a shared draw without its mirror": Parts(rows=DrawsWithoutMirror),
    "the team's row written apart": Parts(rows=WritesTeamsApart),
    "what payers hold is forgotten": Parts(rows=ForgetsWhatPayersHold),
}
