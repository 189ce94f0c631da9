"""What the port to the rows guarantees, tested on every engine that implements it.

All tests of one engine share its tables, so each works on a principal, a run and a team of its own.
"""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from msgspec.structs import replace

from agent_credits.commit.changes import GrantChange
from agent_credits.commit.rows import LostTogether
from agent_credits.commit.write_protocol import commit
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.entries import Identity, Page, Receipt, run_identity
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.values.errors import AccountTooLarge
from agent_credits.values.principals import Principal
from tests.conformance.engines import AllRows, Engine
from tests.conformance.samples import NOW, entry, full_account, grant, model_provider_error, team

LONG = "x" * 128
WRITERS = 8


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex[:12]


@pytest.fixture
def ana(name: str) -> Principal:
    return Principal("user", name)


def test_an_unwritten_row_is_read_as_none(rows: AllRows, ana: Principal, name: str) -> None:
    assert rows.read_account(ana) is None
    assert rows.read_team(name) is None
    assert rows.read_policy(name) is None
    assert list(rows.read_run(name)) == []
    assert rows.read_receipts([run_identity("/platform", name, "e-1")]) == {}
    assert rows.read_receipts([]) == {}


def test_a_row_is_read_as_it_was_written(rows: AllRows, ana: Principal) -> None:
    written = full_account(ana)

    assert rows.compare_and_set(written) is None

    assert rows.read_account(ana) == written


def test_a_row_of_many_entries_is_read_as_it_was_written(rows: AllRows, ana: Principal) -> None:
    entries = tuple(entry("run-1", f"e-{number}") for number in range(200))
    written = Account(ana, version=1, entries=entries)

    assert rows.compare_and_set(written) is None

    assert rows.read_account(ana) == written


def test_a_row_is_opened_once(rows: AllRows, ana: Principal) -> None:
    first, second = full_account(ana), Account(ana, version=1, grants=(grant(),))

    assert rows.compare_and_set(first) is None
    assert rows.compare_and_set(second) == first

    assert rows.read_account(ana) == first


def test_a_row_is_written_one_version_at_a_time(rows: AllRows, ana: Principal) -> None:
    versions = [full_account(ana, version) for version in (1, 2, 3)]

    assert [rows.compare_and_set(account) for account in versions] == [None, None, None]

    assert rows.read_account(ana) == versions[2]


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_write_at_another_version_returns_the_current_row(
    rows: AllRows, ana: Principal, version: int
) -> None:
    for number in (1, 2):
        rows.compare_and_set(full_account(ana, number))

    there = rows.compare_and_set(Account(ana, version=version))

    assert there == full_account(ana, 2) == rows.read_account(ana)


def test_a_row_past_its_ceiling_is_rejected_before_anything_is_written(
    rows: AllRows, ana: Principal
) -> None:
    # Hexadecimal digits of no pattern, so that compression does not save them.
    grants = tuple(grant(uuid.uuid4().hex * 4) for _ in range(600))

    with pytest.raises(AccountTooLarge):
        rows.compare_and_set(Account(ana, version=1, grants=grants))

    assert rows.read_account(ana) is None


def limit_row(name: str, version: int = 1, drawn: int = 7) -> LimitRow:
    return LimitRow(
        key=LimitKey(name, "team", name, "month"),
        ends_at=NOW + timedelta(days=9),
        version=version,
        drawn_microcredits=drawn,
        held=((NOW + timedelta(minutes=5), 3),),
        limit_microcredits=10,
        notified_percent=70,
        moved_at=NOW,
    )


def test_rows_that_are_written_together_are_read_as_they_were_written(
    rows: AllRows, ana: Principal, name: str
) -> None:
    ben, row = Principal("user", f"{name}-ben"), limit_row(name)

    lost = rows.compare_and_set_together([full_account(ana), full_account(ben)], [row])

    assert lost is None
    assert rows.read_account(ana) == full_account(ana)
    assert rows.read_account(ben) == full_account(ben)
    other = LimitKey(name, "team", name, "day")
    assert rows.read_limits([row.key, other]) == {row.key: row}


def test_if_a_limit_s_row_has_moved_nothing_is_written_and_that_row_is_returned(
    rows: AllRows, ana: Principal, name: str
) -> None:
    rows.compare_and_set_together([full_account(ana)], [limit_row(name)])
    moved = limit_row(name, 2, drawn=9)
    rows.compare_and_set_together([full_account(ana, 2)], [moved])

    lost = rows.compare_and_set_together([full_account(ana, 3)], [limit_row(name, 2)])

    assert lost == LostTogether(limits=(moved,))
    assert rows.read_account(ana) == full_account(ana, 2)
    assert rows.read_limits([moved.key]) == {moved.key: moved}


def test_if_an_account_has_moved_no_limit_s_row_is_written_and_all_that_moved_are_returned(
    rows: AllRows, ana: Principal, name: str
) -> None:
    ben = Principal("user", f"{name}-ben")
    for version in (1, 2):
        rows.compare_and_set_together([full_account(ana, version)], [limit_row(name, version)])

    late = [full_account(ana, 2), full_account(ben)]
    lost = rows.compare_and_set_together(late, [limit_row(name, 1)])

    assert lost == LostTogether((full_account(ana, 2),), (limit_row(name, 2),))
    assert rows.read_account(ben) is None


def test_only_one_of_several_writers_at_the_same_version_wins(
    engine: Engine, ana: Principal
) -> None:
    if not engine.is_concurrent:
        pytest.skip("these rows are one thread's alone")
    writes = [replace(full_account(ana), grants=(grant(f"g-{n}"),)) for n in range(WRITERS)]

    with ThreadPoolExecutor(WRITERS) as pool:
        answers = list(pool.map(engine.rows.compare_and_set, writes))

    (winner,) = [write for write, lost in zip(writes, answers, strict=True) if lost is None]
    assert engine.rows.read_account(ana) == winner
    assert all(answer in (None, winner) for answer in answers)


def test_workers_that_race_commit_everything_once(engine: Engine, ana: Principal) -> None:
    if not engine.is_concurrent:
        pytest.skip("these rows are one thread's alone")
    gifts = [GrantChange(ana, f"g-{n}", "add_on", 1 + n, None, "gift") for n in range(WRITERS)]

    def give(change: GrantChange) -> None:
        commit(engine.rows, ana, [change], now=NOW, pause=lambda _: None, opens_account=True)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(give, [*gifts, *gifts]))

    account = engine.rows.read_account(ana)
    assert account is not None
    held = sum(grant.remaining_microcredits for grant in account.grants)
    assert held == sum(gift.microcredits for gift in gifts)
    assert account.version == WRITERS


def test_a_page_leaves_a_receipt_for_each_of_its_entries(
    rows: AllRows, ana: Principal, name: str
) -> None:
    # More than one batched call takes, of writes as of reads.
    entries = tuple(entry(name, f"e-{number}") for number in range(130))

    rows.put_page(Page(ana, 1, entries))

    receipts = rows.read_receipts([one.identity for one in entries])
    assert {i: receipt.entry for i, receipt in receipts.items()} == {e.identity: e for e in entries}
    assert {(r.principal, r.page_number) for r in receipts.values()} == {(ana, 1)}
    assert {receipt.entry.identity for receipt in rows.read_run(name)} == receipts.keys()


def test_a_page_is_flushed_and_other_receipts_are_read_in_one_call(
    rows: AllRows, ana: Principal, name: str
) -> None:
    before = Page(ana, 1, tuple(entry(name, f"before-{number}") for number in range(3)))
    rows.put_page(before)
    page = Page(ana, 2, tuple(entry(name, f"e-{number}") for number in range(60)))
    unknown = run_identity("/platform", name, "unknown")

    found = rows.flush_and_read_receipts([page], [*(e.identity for e in before.entries), unknown])

    assert found == {e.identity: Receipt(ana, 1, e) for e in before.entries}
    flushed = rows.read_receipts([e.identity for e in page.entries])
    assert flushed == {e.identity: Receipt(ana, 2, e) for e in page.entries}


def test_pages_of_several_accounts_are_flushed_in_one_call(
    rows: AllRows, ana: Principal, name: str
) -> None:
    ben = Principal("user", f"{ana.id}-ben")
    pages = [
        Page(principal, 1, tuple(entry(name, f"{principal.id}-{n}") for n in range(20)))
        for principal in (ana, ben)
    ]

    assert rows.flush_and_read_receipts(pages, []) == {}

    assert [list(rows.read_pages(page.principal)) for page in pages] == [[pages[0]], [pages[1]]]
    identities = [each.identity for page in pages for each in page.entries]
    found = rows.read_receipts(identities)
    assert {i: receipt.principal for i, receipt in found.items()} == {
        each.identity: page.principal for page in pages for each in page.entries
    }


def test_a_page_put_again_changes_nothing(rows: AllRows, ana: Principal, name: str) -> None:
    page = Page(ana, 1, (entry(name, "e-1"), entry(name, "e-2")))
    identities = [one.identity for one in page.entries]

    rows.put_page(page)
    first = rows.read_receipts(identities)
    rows.put_page(page)

    assert rows.read_receipts(identities) == first
    assert len(list(rows.read_run(name))) == 2


def test_an_existing_page_or_receipt_is_never_replaced(
    rows: AllRows, ana: Principal, name: str
) -> None:
    written, other = entry(name, "e-1"), entry(name, "e-1", amount=7)
    rows.put_page(Page(ana, 1, (written,)))

    rows.put_page(Page(ana, 1, (other, entry(name, "e-2"))))

    receipts = rows.read_receipts([written.identity])
    assert receipts[written.identity].entry == written
    # What was not there yet is written all the same.
    assert {receipt.entry.identity.id for receipt in rows.read_run(name)} == {"e-1", "e-2"}


def test_only_existing_receipts_are_returned(rows: AllRows, ana: Principal, name: str) -> None:
    there, missing = entry(name, "e-1"), run_identity("/platform", name, "e-2")
    rows.put_page(Page(ana, 1, (there,)))

    receipts = rows.read_receipts([missing, there.identity])

    assert receipts.keys() == {there.identity}


def test_a_run_is_read_across_accounts_and_apart_from_its_neighbours(
    rows: AllRows, ana: Principal, name: str
) -> None:
    ben = Principal("user", f"{name}-ben")
    rows.put_page(Page(ana, 1, (entry(name, "e-1"), entry(f"{name}-2", "e-1"))))
    rows.put_page(Page(ben, 1, (entry(name, "e-2"),)))

    found = {(r.principal, r.entry.identity.id) for r in rows.read_run(name)}

    assert found == {(ana, "e-1"), (ben, "e-2")}


def test_no_two_identities_share_a_receipt(rows: AllRows, ana: Principal, name: str) -> None:
    parts = [("/a", "b#c"), ("/a#b", "c"), ("/a%23b", "c"), ("/a#b#", "c"), ("/a", "b%23c")]
    entries = [entry(name, event_id, source=source) for source, event_id in parts]
    of_grant = Identity("GRANT", f"user:{name}", "/agent-credits", "g-1")
    entries += [replace(entries[0], identity=of_grant)]

    rows.put_page(Page(ana, 1, tuple(entries)))

    receipts = rows.read_receipts([one.identity for one in entries])
    assert {i: r.entry for i, r in receipts.items()} == {e.identity: e for e in entries}
    assert len(list(rows.read_run(name))) == len(parts)


def test_the_longest_names_fit_their_keys(rows: AllRows, name: str) -> None:
    # Every character that is escaped takes three; DynamoDB ends a sort key at 1,024 bytes.
    principal = Principal("user", (name + LONG)[:128])
    longest = entry((name + LONG)[:128], "#" * 128, source="#" * 200)

    rows.put_page(Page(principal, 1, (longest,)))

    assert rows.read_receipts([longest.identity])[longest.identity].entry == longest


def test_a_team_is_read_as_it_was_written(rows: AllRows, name: str) -> None:
    assert rows.compare_and_set_team(team(name)) is None

    assert rows.read_team(name) == team(name)


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_write_at_another_version_returns_the_current_team(
    rows: AllRows, name: str, version: int
) -> None:
    for number in (1, 2):
        assert rows.compare_and_set_team(team(name, number)) is None
    other = team(name, version).model_copy(update={"spend_cap_cents": 1})

    there = rows.compare_and_set_team(other)

    assert there == team(name, 2) == rows.read_team(name)


def test_an_observation_is_put_once(rows: AllRows, name: str) -> None:
    first, other = model_provider_error(name, "e-1"), model_provider_error(name, "e-2")

    assert [rows.put_observation(first, NOW), rows.put_observation(other, NOW)] == [True, True]

    # Of the same identity, whatever else it says and however much later.
    again = first.model_copy(update={"model": "gpt-6"})
    assert not rows.put_observation(again, NOW + timedelta(days=1))


def test_only_one_of_several_workers_learns_that_an_observation_is_new(
    engine: Engine, name: str
) -> None:
    if not engine.is_concurrent:
        pytest.skip("these rows are one thread's alone")
    observation = model_provider_error(name)

    with ThreadPoolExecutor(WRITERS) as pool:
        answers = list(
            pool.map(lambda _: engine.rows.put_observation(observation, NOW), range(WRITERS))
        )

    assert sorted(answers) == [False] * (WRITERS - 1) + [True]


def test_the_longest_observation_fits_its_key(rows: AllRows, name: str) -> None:
    longest = model_provider_error((name + LONG)[:128], "#" * 128)
    longest = longest.model_copy(update={"source": "/" * 200})

    assert rows.put_observation(longest, NOW)

    assert not rows.put_observation(longest, NOW)
