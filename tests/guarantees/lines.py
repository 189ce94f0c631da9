"""The lines that the guarantees rest on, each with a test that fails once it is removed.

`make mutants` removes them one by one, in a copy, and sees those tests fail. The table of
docs/explanation/guarantees.md is made from this list.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One change of the source: `text` stands once in the file, and `broken` takes its place."""

    invariant: str
    path: str
    text: str
    broken: str
    test: str

    @property
    def shown(self) -> str:
        """Return the change as the table shows it: the line that is removed, or what it becomes."""
        text, broken = (" ".join(part.split()) for part in (self.text, self.broken))
        return f"`{text}`" if broken in ("", "pass") else f"`{text}` becomes `{broken}`"


PACKAGE = "shared/agent_credits"
RESERVATIONS = "tests/unit/commit/test_reservations.py"
LIMITS = "tests/unit/commit/test_limits.py"
SHARED = "tests/unit/commit/test_shared_pools.py"
ROWS = "tests/conformance/test_rows.py"
MODEL = "tests/simulation/test_models.py::test_every_interleaving_keeps_the_invariants"

LINES = (
    Line(
        "1 no grant below zero",
        f"{PACKAGE}/ledger/waterfall.py",
        "part = min(grant.remaining_microcredits, uncovered)",
        "part = uncovered",
        "tests/unit/ledger/test_waterfall.py::test_no_grant_falls_below_zero_and_no_expired_one_is_drawn",
    ),
    Line(
        "2 the ledger alone gives the balance",
        f"{PACKAGE}/commit/runs.py",
        "return after, Entry.debited(facts, amount, drawn.draws, drawn.facts, limits)",
        "return account, Entry.debited(facts, amount, drawn.draws, drawn.facts, limits)",
        "tests/unit/commit/test_decide.py::test_the_ledger_alone_explains_every_row",
    ),
    Line(
        "3 one outcome per event: the page is flushed before the next one",
        f"{PACKAGE}/commit/write_protocol.py",
        "receipts = rows.flush_and_read_receipts([row.page], wanted)",
        "receipts = rows.read_receipts(wanted)",
        f"{MODEL}[write protocol: usage]",
    ),
    Line(
        "3 one outcome per event: after a lost race, receipts are read again",
        f"{PACKAGE}/commit/write_protocol.py",
        "return replace(self, row=newer, is_warm=False, receipts=None)",
        "return replace(self, row=newer, is_warm=False)",
        "tests/unit/commit/test_write_protocol.py"
        "::test_what_others_commit_after_reading_ahead_is_neither_repeated_nor_lost",
    ),
    Line(
        "3 one outcome per event: what has a receipt is recorded",
        f"{PACKAGE}/commit/decide.py",
        "known.update(past.recorded)",
        "",
        "tests/unit/commit/test_decide.py::test_what_an_id_has_decided_stays_decided",
    ),
    Line(
        "4 draws plus shortfall equal the amount",
        f"{PACKAGE}/ledger/entries.py",
        "shortfall_microcredits=shortfall_microcredits,",
        "",
        "tests/unit/commit/test_decide.py"
        "::test_usage_takes_what_there_is_and_records_the_rest_as_shortfall",
    ),
    Line(
        "5 no expired grant is drawn",
        f"{PACKAGE}/ledger/waterfall.py",
        "if part > 0 and grant.is_live(now):",
        "if part > 0:",
        "tests/unit/ledger/test_waterfall.py::test_a_grant_can_be_drawn_until_just_before_its_expiry",
    ),
    Line(
        "5 the waterfall is one total order",
        f"{PACKAGE}/ledger/grants.py",
        "key=lambda g: (place[g.pool], g.expires_at or _NEVER, g.granted_at, g.id),",
        "key=lambda g: (place[g.pool], g.expires_at or _NEVER, g.granted_at),",
        "tests/unit/ledger/test_waterfall.py::test_grants_are_drawn_in_one_order",
    ),
    Line(
        "6 version grows by one per commit",
        f"{PACKAGE}/aws/dynamodb_rows.py",
        'nobody_has_committed = "version = :read_version"',
        'nobody_has_committed = "version >= :read_version"',
        "tests/conformance/test_rows.py"
        "::test_a_write_at_another_version_returns_the_current_row[moto-2]",
    ),
    Line(
        "7 acknowledged implies recorded",
        f"{PACKAGE}/intake/debited_batch.py",
        "if not isinstance(what, Done)",
        "if not isinstance(what, Done | RetryLater)",
        "tests/integration/test_debit_runs.py"
        "::test_what_is_postponed_stays_hidden_until_its_visibility_timeout",
    ),
    Line(
        "8 a recorded entry never changes: a full page does not grow",
        f"{PACKAGE}/commit/decide.py",
        "    if not row.page_is_full:\n        return row\n",
        "    return row\n",
        "tests/unit/commit/test_decide.py::test_a_full_page_is_followed_by_the_next_one",
    ),
    Line(
        "8 a recorded entry never changes: another payload is a conflict",
        f"{PACKAGE}/commit/decide.py",
        "elif before.payload_hash == change.payload_hash:",
        "elif True:",
        "tests/unit/commit/test_decide.py"
        "::test_the_same_id_with_another_payload_is_never_applied_in_one_batch",
    ),
    Line(
        "9 every failed run has a notice",
        "functions/announce/app.py",
        'return {"batchItemFailures": [{"itemIdentifier": image["SequenceNumber"]}]}',
        'return {"batchItemFailures": []}',
        "tests/integration/test_announce.py"
        "::test_the_stream_comes_again_from_the_record_that_could_not_be_published",
    ),
    Line(
        "9 every failed run has a notice: what cannot be announced is kept",
        "functions/announce/app.py",
        "key = set_aside_records().put(record, error, datetime.now(UTC))",
        'key = ""',
        "tests/integration/test_set_aside.py"
        "::test_exactly_the_record_that_cannot_be_announced_is_set_aside",
    ),
    Line(
        "9 every failed run has a notice: one bad record holds up no other",
        f"{PACKAGE}/aws/announcer.py",
        "raise NotAnnounceable(type(error).__name__) from error",
        "raise",
        "tests/integration/test_set_aside.py"
        "::test_exactly_the_record_that_cannot_be_announced_is_set_aside",
    ),
    Line(
        "10 spent plus reserved never passes the cap",
        f"{PACKAGE}/billing/spend_cap.py",
        "    if reservation.price_cents > spending.head_room(cap_cents, reservation.month):\n"
        "        return None\n",
        "",
        "tests/unit/billing/test_spend_cap.py::test_a_purchase_may_reach_the_cap_but_not_pass_it_by_a_cent",
    ),
    Line(
        "10 a payment is stored before it is confirmed",
        f"{PACKAGE}/payments/reload_saga.py",
        "payment_id = self._stored(request, created)",
        "payment_id = created",
        f"{MODEL}[reload saga: one reload, a cap for two]",
    ),
    Line(
        "10 a reservation is kept while the outcome is unknown",
        f"{PACKAGE}/billing/spend_cap.py",
        "    if held is None or held.payment_id != payment_id:\n"
        "        return spending\n"
        "    return _update(spending, reservations=_without(spending, purchase_id))\n",
        "    return _update(spending, reservations=_without(spending, purchase_id))\n",
        f"{MODEL}[reload saga: one reload, in time or late]",
    ),
    Line(
        "11 one live reload per account",
        f"{PACKAGE}/payments/reload_saga.py",
        "        if _open_reload(team.spending, request.principal) is not None:\n"
        '            return "payment_unavailable"\n',
        "",
        f"{MODEL}[reload saga: asks again, an earlier payment processing]",
    ),
    Line(
        "12 replaying the whole queue changes nothing",
        f"{PACKAGE}/commit/decide.py",
        "    if not any(isinstance(result, Recorded) for result in results)"
        " and current.reload == row.reload:\n"
        "        return Decision(row.version, row, tuple(results))\n",
        "",
        "tests/unit/commit/test_decide.py::test_a_batch_of_repeats_changes_nothing_though_a_refill_is_due",
    ),
    Line(
        "13 each grant is available, reserved, burned or expired: checked before each write",
        f"{PACKAGE}/commit/decide.py",
        "    check_commit(row, committed, entries)\n",
        "",
        f"{RESERVATIONS}::test_a_commit_that_would_lose_what_a_reservation_held_is_never_written",
    ),
    Line(
        "13 what a reservation still holds at its end goes back",
        f"{PACKAGE}/ledger/ends.py",
        "goes_back = together(goes_back, ended.parts)",
        "pass",
        f"{RESERVATIONS}::test_after_three_runs_settle_as_many_start_as_what_they_left_can_hold",
    ),
    Line(
        "13 a grant does not expire under a reservation",
        f"{PACKAGE}/ledger/expiry.py",
        "over = [grant for grant in own if not grant.is_live(now) and grant.id not in held]",
        "over = [grant for grant in own if not grant.is_live(now)]",
        f"{RESERVATIONS}::test_a_part_of_an_expired_grant_is_good_until_its_reservation_ends"
        "_and_lapses_then",
    ),
    Line(
        "13 code of before cannot read, and so not lose, what is reserved",
        f"{PACKAGE}/aws/items.py",
        "return _GRANTS_BESIDE_RESERVATIONS",
        "return _GRANTS",
        f"{MODEL}[reservation: one worker runs the code of before]",
    ),
    Line(
        "14 a run draws only its own reservation and those of its line of parents",
        f"{PACKAGE}/commit/reservations.py",
        "for ancestor in line[1:]:",
        "for ancestor in account.reservations:",
        f"{RESERVATIONS}::test_a_child_that_draws_past_its_own_draws_its_line_of_parents"
        "_then_what_nobody_holds",
    ),
    Line(
        "14 a run draws only its own reservation: checked before each write",
        f"{PACKAGE}/ledger/conservation.py",
        'require(moved <= line, "a run draws only its own reservation and those of its parents")',
        "pass",
        "tests/unit/ledger/test_conservation.py::test_14_a_run_that_draws_what_another_run_holds",
    ),
    Line(
        "15 a reservation ends: when its time is over",
        f"{PACKAGE}/ledger/expiry.py",
        "over = [held.run_id for held in account.reservations if not held.is_live(now)]",
        "over = list[str]()",
        f"{MODEL}[reservation: it expires, or its run is settled]",
    ),
    Line(
        "15 a reservation ends: with its parent's",
        f"{PACKAGE}/ledger/ends.py",
        "for r in tree_below(account.reservations, run_id)})",
        "for r in tree_below(account.reservations, run_id)[:1]})",
        f"{RESERVATIONS}::test_a_parent_that_ends_closes_its_tree",
    ),
    Line(
        "15 a reservation ends exactly once: a run is settled once",
        f"{PACKAGE}/commit/runs.py",
        "        if _has_ended(context.entries_of_run(account, run_id)):\n"
        "            return account, _RUN_ENDED\n"
        "    if status",
        "    if status",
        f"{RESERVATIONS}::test_a_run_whose_reservation_expired_still_finishes_once",
    ),
    Line(
        "15 a live reservation is never taken for ended by a stale row",
        f"{PACKAGE}/commit/write_protocol.py",
        "    if any(isinstance(result, Unsure | Rejection) for result in decision.results):\n"
        "        return True\n",
        "",
        f"{MODEL}[reservation: extended before it is known]",
    ),
    Line(
        "16 a tree draws at most its grace past what its root was given",
        f"{PACKAGE}/commit/reservations.py",
        "allowed = uncovered if may_finish else min(uncovered, root.grace_left_microcredits)",
        "allowed = uncovered",
        f"{RESERVATIONS}::test_under_pause_and_stop_a_run_draws_at_most_its_grace",
    ),
    Line(
        "16 a child never reserves more than its parent holds",
        f"{PACKAGE}/commit/reservations.py",
        "    if microcredits > at_hand:\n",
        "    if reservation.parent_run_id is None and microcredits > at_hand:\n",
        f"{RESERVATIONS}::test_a_child_never_reserves_more_than_its_parent_holds",
    ),
    Line(
        "16 a tree draws at most its grace: checked before each write",
        f"{PACKAGE}/ledger/accounts.py",
        "    require(may_finish or within_grace,"
        ' "a tree draws at most its grace past what it was given")\n',
        "",
        "tests/unit/ledger/test_conservation.py::test_16_a_tree_that_drew_past_its_grace",
    ),
    Line(
        "17 a limit is never passed: usage draws what it leaves",
        f"{PACKAGE}/commit/reservations.py",
        "within = min(amount, room.of(None))",
        "within = amount",
        f"{LIMITS}::test_usage_draws_up_to_the_limit_and_the_rest_is_the_shortfall",
    ),
    Line(
        "17 a limit is never passed: a reservation needs room",
        f"{PACKAGE}/commit/runs.py",
        "refusal = room_of(account, change, context).refusal(estimate, parent_run_id)",
        "refusal = None",
        f"{LIMITS}::test_reservations_count_when_they_are_made_and_free_what_they_leave",
    ),
    Line(
        "17 a limit is never passed: an account is decided with what those before it move",
        f"{PACKAGE}/commit/together.py",
        "known = Beside(self._limits, self._shared, pages).with_moved(moved)",
        "known = Beside(self._limits, self._shared, pages)",
        f"{LIMITS}::test_accounts_of_a_batch_are_committed_in_one_transaction",
    ),
    Line(
        "17 a limit is never passed: its row moves under its own version",
        f"{PACKAGE}/aws/dynamodb_rows.py",
        "**_is_one_version_older(version),\n                }\n            }\n",
        "}\n            }\n",
        f"{ROWS}::test_if_a_limit_s_row_has_moved_nothing_is_written_and_that_row_is_returned[moto]",
    ),
    Line(
        "18 a limit's row is the sum of its accounts: both are in one transaction",
        f"{PACKAGE}/commit/together.py",
        "lost = self._rows.compare_and_set_together(accounts, limits)",
        "lost = self._rows.compare_and_set_together(accounts, [])"
        " or self._rows.compare_and_set_together([], limits)",
        f"{MODEL}[limit: two accounts draw]",
    ),
    Line(
        "18 a limit's row is the sum of its accounts: room goes back in its own period",
        f"{PACKAGE}/commit/limits.py",
        "if count is None or count.ends_at != ends_at or not count.is_current(now):",
        "if count is None or not count.is_current(now):",
        f"{MODEL}[limit: a run is given back, in its period or later]",
    ),
    Line(
        "18 a limit's row holds what is reserved: until it is settled",
        f"{PACKAGE}/commit/limits.py",
        "held = _held_by(row, committed, key, now)",
        "held = dict[datetime, int]()",
        f"{MODEL}[limit: a run that reserved is settled, or expires]",
    ),
    Line(
        "18 a limit's row holds what is reserved: time never runs backwards on it",
        f"{PACKAGE}/commit/decide.py",
        "moved = [row.moved_at for row in beside.limits.values() if row is not None]",
        "moved = list[datetime]()",
        f"{MODEL}[limit: a run that reserved is settled, or expires]",
    ),
    Line(
        "19 a shared draw is on both accounts: both rows are in one transaction",
        f"{PACKAGE}/commit/together.py",
        "accounts = [*(found.decision.account for found in staged.values()), *teams]",
        "accounts = [found.decision.account for found in staged.values()]",
        f"{SHARED}::test_a_run_draws_the_team_s_pool_after_its_own_and_both_accounts_record_it",
    ),
    Line(
        "19 a shared draw is on both accounts: the team's ledger has an entry of it",
        f"{PACKAGE}/commit/shared_pools.py",
        "recorded.append(Entry.pool_drawn(team.principal, payer, version, drawn, facts, now))",
        "pass",
        f"{SHARED}::test_a_run_draws_the_team_s_pool_after_its_own_and_both_accounts_record_it",
    ),
    Line(
        "19 a shared draw is on both accounts: what goes back goes back to the team",
        f"{PACKAGE}/commit/shared_pools.py",
        'sign = -1 if entry.outcome == "returned" else 1',
        "sign = 1",
        f"{SHARED}::test_a_platform_error_gives_back_to_both_accounts",
    ),
    Line(
        "19 what a payer reserves of the team's pool is held on the team's row",
        f"{PACKAGE}/commit/shared_pools.py",
        "reservations=(*others, *holdings),",
        "",
        f"{SHARED}::test_reservations_take_from_both_alike",
    ),
    Line(
        "19 what a child leaves of the team's pool stays in its tree",
        f"{PACKAGE}/commit/shared_pools.py",
        "parts = _parts_of_tree(account.reservations, root, lender)",
        "parts = _parts_of_tree((root,), root, lender)",
        f"{SHARED}::test_a_child_s_share_of_the_team_s_pool_stays_in_its_tree",
    ),
    Line(
        "19 what a payer reserves of the team's pool: a team's row is never older than a payer's",
        f"{PACKAGE}/commit/together.py",
        "            self._shared.clear()\n            self._ahead.update(",
        "            self._ahead.update(",
        f"{SHARED}::test_a_team_s_row_that_is_older_than_the_payer_s_is_read_again",
    ),
    Line(
        "19 a shared draw is on both accounts: each is decided with the pages of the team",
        f"{PACKAGE}/commit/shared_pools.py",
        "return replace(past, grants={**made, **past.grants}) if made else past",
        "return past",
        f"{SHARED}::test_draws_go_back_to_a_grant_of_the_team_whose_full_page_is_not_flushed_yet",
    ),
)


def table() -> str:
    """Return the list as the table of docs/explanation/guarantees.md."""
    rows = [f"| {line.invariant} | {line.path} | {line.shown} | {_named(line)} |" for line in LINES]
    head = ["| invariant | file | without this line | fails |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows]) + "\n"


def _named(line: Line) -> str:
    path, _, test = line.test.partition("::")
    return f"`{test}` in {path}"
