"""Keys and item shapes: the one place that knows how the domain is stored in DynamoDB.

AccountsTable  ACCOUNT#<principal>, TEAM#<team id>, AUDIT#<team id>#<number>, POLICY#<version>,
               OBSERVED#<kind>#<key>, LIMIT#<team id>#<scope>#<id>#<period>,
               CHECKPOINT#<principal>, BURN#<principal>, SWEEP#<sweep>
LedgerTable    pages     ACCOUNT#<principal>              PAGE#<page number, ten digits>
               receipts  RUN#<run id> | GRANT#<principal>  EVENT#<source>#<event id>
"""

import base64
import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from agent_credits.aws import codec
from agent_credits.billing.alerts import Alerts
from agent_credits.billing.policy import BillingPolicy
from agent_credits.billing.teams import Team
from agent_credits.ledger.accounts import Account
from agent_credits.ledger.burn import BurnByDay
from agent_credits.ledger.burn_counts import BurnCount
from agent_credits.ledger.entries import NO_RESERVATION, Entry, Identity, Page, Receipt
from agent_credits.ledger.limits import NO_LIMITS, LimitCount, LimitKey, LimitRow
from agent_credits.sweeps.checkpoint import Checkpoint
from agent_credits.sweeps.last_sweep import LastSweep, SweepName
from agent_credits.values.errors import AccountTooLarge
from agent_credits.values.principals import Principal, parse_principal

if TYPE_CHECKING:
    # Models of rare rows, which the cold start of the debit path does without.
    from agent_credits.api.audit import AuditEntry
    from agent_credits.notices.observations import Observation

# Typed attribute values: {"pk": {"S": "ACCOUNT#user:ana"}, "version": {"N": "7"}}.
Item = dict[str, Any]

ACCOUNT_PREFIX = "ACCOUNT#"
TEAM_PREFIX = "TEAM#"
PAGE_PREFIX = "PAGE#"
OBSERVED_PREFIX = "OBSERVED#"
LIMIT_PREFIX = "LIMIT#"

# DynamoDB deletes an item when the time in this attribute has passed. So no row of money may ever
# have an attribute of this name.
EXPIRY_ATTRIBUTE = "expires_at"

ROW_BYTES_MAX = 64 * 1024


def account_key(principal: Principal) -> Item:
    return {"pk": {"S": f"{ACCOUNT_PREFIX}{principal}"}}


def principal_of_key(key: str) -> Principal:
    """Return the principal of a row's key: a team, that of a limit, or the owner of an account.

    Raises ValueError for any other key.
    """
    if key.startswith(TEAM_PREFIX):
        return Principal("team", key.removeprefix(TEAM_PREFIX))
    if key.startswith(LIMIT_PREFIX):
        team_id, _, _ = key.removeprefix(LIMIT_PREFIX).partition("#")
        return Principal("team", _unescaped(team_id))
    return parse_principal(key.partition("#")[2])


def team_key(team_id: str) -> Item:
    return {"pk": {"S": f"{TEAM_PREFIX}{team_id}"}}


def audit_key(team_id: str, number: int) -> Item:
    return {"pk": {"S": f"AUDIT#{team_id}#{number}"}}


def policy_key(version: str) -> Item:
    return {"pk": {"S": f"POLICY#{version}"}}


def limit_key(key: LimitKey) -> Item:
    parts = (key.team_id, key.scope, key.id, key.period)
    return {"pk": {"S": LIMIT_PREFIX + "#".join(_escaped(part) for part in parts)}}


def checkpoint_key(principal: Principal) -> Item:
    return {"pk": {"S": f"CHECKPOINT#{principal}"}}


def burn_count_key(principal: Principal) -> Item:
    return {"pk": {"S": f"BURN#{principal}"}}


def last_sweep_key(sweep: SweepName) -> Item:
    return {"pk": {"S": f"SWEEP#{sweep}"}}


def run_partition(run_id: str) -> Item:
    return {"S": f"RUN#{run_id}"}


def pages_partition(principal: Principal) -> Item:
    return {"S": f"{ACCOUNT_PREFIX}{principal}"}


def page_key(principal: Principal, number: int) -> Item:
    return {"pk": pages_partition(principal), "sk": {"S": f"{PAGE_PREFIX}{number:010d}"}}


def receipt_key(identity: Identity) -> Item:
    event = f"EVENT#{_escaped(identity.source)}#{_escaped(identity.id)}"
    return {"pk": {"S": f"{identity.realm}#{identity.subject}"}, "sk": {"S": event}}


def account_item(account: Account) -> Item:
    """Return the account's row. Raises `AccountTooLarge` if it would be too large."""
    item: Item = {
        **account_key(account.principal),
        "version": {"N": str(account.version)},
        "page_number": {"N": str(account.page_number)},
        _grants_attribute(account): {"S": codec.pack_grants(account.grants)},
        "entries": _typed(codec.pack_entries(account.entries)),
    }
    if account.plan is not None:
        item["plan"] = {"S": codec.pack_plan(account.plan)}
    if account.errored_runs:
        item["errored_runs"] = {"B": codec.pack_errored_runs(account.errored_runs)}
    if account.reload is not None:
        item["reload"] = {"S": codec.pack_reload(account.reload)}
    if account.reloaded_at:
        item["reloaded_at"] = {"S": codec.pack_instants(account.reloaded_at)}
    if account.is_exhausted:
        item["is_exhausted"] = {"BOOL": True}
    if account.low is not None:
        item["low"] = {"S": codec.pack_low(account.low)}
    if account.reservations:
        reservations = codec.pack_reservations(
            account.reservations, account.grants, account.limit_counts
        )
        item["reservations"] = _typed(reservations)
    if account.limit_counts:
        item["limit_counts"] = _typed(codec.pack_limit_counts(account.limit_counts))
    if account.page_is_full:
        item["page_is_full"] = {"BOOL": True}
    size = item_bytes(item)
    if size > ROW_BYTES_MAX:
        raise AccountTooLarge(
            f"{account.principal}: a row of {size:,} bytes exceeds {ROW_BYTES_MAX:,}"
        )
    return item


def account_from_item(item: Mapping[str, Any]) -> Account:
    """Read an account's row, from a response or from an image of the change stream."""
    grants = codec.unpack_grants(item[_grants_attribute_of(item)]["S"])
    limit_counts = _limit_counts_from_item(item)
    return Account(
        principal=parse_principal(item["pk"]["S"].removeprefix(ACCOUNT_PREFIX)),
        version=int(item["version"]["N"]),
        grants=grants,
        plan=codec.unpack_plan(item["plan"]["S"]) if "plan" in item else None,
        errored_runs=(
            codec.unpack_errored_runs(_bytes(item["errored_runs"]))
            if "errored_runs" in item
            else ()
        ),
        reload=codec.unpack_reload(item["reload"]["S"]) if "reload" in item else None,
        reloaded_at=(
            codec.unpack_instants(item["reloaded_at"]["S"]) if "reloaded_at" in item else ()
        ),
        is_exhausted="is_exhausted" in item,
        low=codec.unpack_low(item["low"]["S"]) if "low" in item else None,
        reservations=(
            codec.unpack_reservations(_text_or_bytes(item["reservations"]), grants, limit_counts)
            if "reservations" in item
            else ()
        ),
        limit_counts=limit_counts,
        page_number=int(item["page_number"]["N"]),
        entries=_entries_from_item(item),
        page_is_full="page_is_full" in item,
    )


# A version that knows no reservations would read such a row, and write it without them; likewise
# one that knows no limits. It needs the grants under the name that it knows, so under another name
# it cannot read the row at all: it gives the messages back, and a newer version takes them.
_GRANTS = "grants"
_GRANTS_BESIDE_RESERVATIONS = "grants_beside_reservations"
_GRANTS_BESIDE_LIMITS = "grants_beside_limits"


def _grants_attribute(account: Account) -> str:
    if account.limit_counts or any(e.limits is not NO_LIMITS for e in account.entries):
        return _GRANTS_BESIDE_LIMITS
    if account.reservations or any(e.reservation != NO_RESERVATION for e in account.entries):
        return _GRANTS_BESIDE_RESERVATIONS
    return _GRANTS


def _grants_attribute_of(item: Mapping[str, Any]) -> str:
    names = (_GRANTS, _GRANTS_BESIDE_RESERVATIONS, _GRANTS_BESIDE_LIMITS)
    return next(name for name in names if name in item or name == _GRANTS_BESIDE_LIMITS)


def page_item(page: Page) -> Item:
    return {
        **page_key(page.principal, page.number),
        "entries": _typed(codec.pack_entries(page.entries)),
    }


def page_from_item(item: Mapping[str, Any]) -> Page:
    return Page(
        principal=parse_principal(item["pk"]["S"].removeprefix(ACCOUNT_PREFIX)),
        number=int(item["sk"]["S"].removeprefix(PAGE_PREFIX)),
        entries=_entries_from_item(item),
    )


def receipt_items(page: Page) -> list[Item]:
    return [
        {
            **receipt_key(entry.identity),
            "account": {"S": str(page.principal)},
            "page": {"N": str(page.number)},
            "entry": {"S": codec.pack_entry(entry)},
        }
        for entry in page.entries
    ]


def receipt_from_item(item: Mapping[str, Any]) -> Receipt:
    return Receipt(
        principal=parse_principal(item["account"]["S"]),
        page_number=int(item["page"]["N"]),
        entry=codec.unpack_entry(item["entry"]["S"]),
    )


def team_item(team: Team) -> Item:
    # Settings that an older version does not know are left out at their default. It can then still
    # read the row during a deployment, and after a rollback.
    unknown_to_older = {"alerts"} if team.alerts == Alerts() else set()
    unknown_to_older |= set() if team.former_members else {"former_members"}
    unknown_to_older |= set() if team.audits else {"audits"}
    unknown_to_older |= {"currency"} if team.currency == "usd" else set()
    unknown_to_older |= set() if team.limits else {"limits"}
    return {
        **team_key(team.team_id),
        "version": {"N": str(team.version)},
        "settings": {"S": team.model_dump_json(exclude={"version"} | unknown_to_older)},
    }


def audit_item(entry: "AuditEntry") -> Item:
    return {
        **audit_key(entry.team_id, entry.number),
        "entry": {"S": entry.model_dump_json()},
    }


def audit_from_item(item: Mapping[str, Any]) -> "AuditEntry":
    from agent_credits.api.audit import AuditEntry

    return AuditEntry.model_validate_json(item["entry"]["S"])


def team_from_item(item: Mapping[str, Any]) -> Team:
    team = Team.model_validate_json(item["settings"]["S"])
    return team.model_copy(update={"version": int(item["version"]["N"])})


def limit_row_item(row: LimitRow) -> Item:
    return {
        **limit_key(row.key),
        "version": {"N": str(row.version)},
        "counts": {"S": codec.pack_limit_row(row)},
    }


def limit_row_from_item(item: Mapping[str, Any]) -> LimitRow:
    """Read a limit's row, from a response or from an image of the change stream."""
    parts = item["pk"]["S"].removeprefix(LIMIT_PREFIX).split("#")
    team_id, scope, limit_id, period = (_unescaped(part) for part in parts)
    key = codec.limit_key_from_json([team_id, scope, limit_id, period])
    return codec.unpack_limit_row(key, int(item["version"]["N"]), item["counts"]["S"])


def is_limit_item(item: Mapping[str, Any]) -> bool:
    return str(item["pk"]["S"]).startswith(LIMIT_PREFIX)


def is_account_item(item: Mapping[str, Any]) -> bool:
    return str(item["pk"]["S"]).startswith(ACCOUNT_PREFIX)


def observation_key(observation: "Observation") -> Item:
    # A kind never holds the separator, so no two observations share a row, whatever their keys.
    return {"pk": {"S": f"{OBSERVED_PREFIX}{observation.kind}#{observation.key}"}}


def observation_item(observation: "Observation", now: datetime) -> Item:
    # Imported here, because observations are rare: a cold start of the debit path does not load
    # their models.
    from agent_credits.notices.observations import expires_at, observation_to_json

    return {
        **observation_key(observation),
        "observation": {"S": observation_to_json(observation)},
        EXPIRY_ATTRIBUTE: {"N": str(int(expires_at(now).timestamp()))},
    }


def observation_from_item(item: Mapping[str, Any]) -> "Observation":
    """Read an observation; one of a newer version raises ValueError."""
    from agent_credits.notices.observations import observation_from_json

    return observation_from_json(item["observation"]["S"])


def is_observation_item(item: Mapping[str, Any]) -> bool:
    return str(item["pk"]["S"]).startswith(OBSERVED_PREFIX)


def policy_item(policy: BillingPolicy) -> Item:
    # What is at its default is left out, so that a version that does not know it can read the row.
    return {
        **policy_key(policy.version),
        "policy": {"S": policy.model_dump_json(exclude_defaults=True)},
    }


def policy_from_item(item: Mapping[str, Any]) -> BillingPolicy:
    return BillingPolicy.model_validate_json(item["policy"]["S"])


def checkpoint_item(checkpoint: Checkpoint) -> Item:
    item: Item = {
        **checkpoint_key(checkpoint.principal),
        "began_on": {"S": checkpoint.began_on.isoformat()},
        "page_number": {"N": str(checkpoint.page_number)},
        "grants": {"S": codec.pack_grants(checkpoint.grants)},
        "unsettled": {"S": codec.pack_grant_ids(checkpoint.unsettled_grant_ids)},
    }
    if checkpoint.reservations:
        item["reservations"] = {"S": codec.pack_reserved_by_ledger(checkpoint.reservations)}
    if checkpoint.limit_counts:
        item["limit_counts"] = _typed(codec.pack_limit_counts(checkpoint.limit_counts))
    if checkpoint.recorded_at is not None:
        item["recorded_at"] = {"S": codec.pack_instants([checkpoint.recorded_at])}
    return item


def checkpoint_from_item(item: Mapping[str, Any]) -> Checkpoint:
    instants = codec.unpack_instants(item["recorded_at"]["S"]) if "recorded_at" in item else ()
    return Checkpoint(
        principal=parse_principal(item["pk"]["S"].partition("#")[2]),
        began_on=date.fromisoformat(item["began_on"]["S"]),
        page_number=int(item["page_number"]["N"]),
        recorded_at=instants[0] if instants else None,
        grants=codec.unpack_grants(item["grants"]["S"]),
        unsettled_grant_ids=codec.unpack_grant_ids(item["unsettled"]["S"]),
        reservations=(
            codec.unpack_reserved_by_ledger(item["reservations"]["S"])
            if "reservations" in item
            else ()
        ),
        limit_counts=_limit_counts_from_item(item),
    )


def burn_count_item(count: BurnCount) -> Item:
    return {
        **burn_count_key(count.principal),
        "page_number": {"N": str(count.page_number)},
        "by_day": {"S": codec.pack_by_day(count.by_day)},
    }


def burn_count_from_item(item: Mapping[str, Any]) -> BurnCount:
    return BurnCount(
        principal=parse_principal(item["pk"]["S"].partition("#")[2]),
        page_number=int(item["page_number"]["N"]),
        by_day=BurnByDay(codec.unpack_by_day(item["by_day"]["S"])),
    )


def last_sweep_item(last: LastSweep) -> Item:
    return {
        **last_sweep_key(last.sweep),
        "day": {"S": last.day.isoformat()},
        "ended_at": {"S": codec.pack_instants([last.ended_at])},
        "visited": {"N": str(last.rows)},
        "visits": {"N": str(last.visits)},
        "counts": {"S": json.dumps(last.counts)},
    }


def last_sweep_from_item(sweep: SweepName, item: Mapping[str, Any]) -> LastSweep:
    (ended_at,) = codec.unpack_instants(item["ended_at"]["S"])
    return LastSweep(
        sweep=sweep,
        day=date.fromisoformat(item["day"]["S"]),
        ended_at=ended_at,
        rows=int(item["visited"]["N"]),
        visits=int(item["visits"]["N"]),
        counts=json.loads(item["counts"]["S"]),
    )


def item_bytes(item: Item) -> int:
    """Return the size that DynamoDB bills. A number takes about half a byte per digit."""
    size = 0
    for name, typed in item.items():
        ((kind, value),) = typed.items()
        match kind:
            case "N":
                size += len(name) + len(value) // 2 + 2
            case "BOOL":
                size += len(name) + 1
            case _:
                size += len(name) + len(value)
    return size


def _limit_counts_from_item(item: Mapping[str, Any]) -> tuple[LimitCount, ...]:
    if "limit_counts" not in item:
        return ()
    return codec.unpack_limit_counts(_text_or_bytes(item["limit_counts"]))


def _entries_from_item(item: Mapping[str, Any]) -> tuple[Entry, ...]:
    # Every commit records an entry, and only full pages are flushed. A notice takes its time from
    # the newest entry, so a row without entries is rejected here.
    entries = codec.unpack_entries(_text_or_bytes(item["entries"]))
    if not entries:
        raise ValueError("a page holds at least one entry")
    return entries


def _typed(packed: str | bytes) -> Item:
    return {"S": packed} if isinstance(packed, str) else {"B": packed}


def _text_or_bytes(typed: Mapping[str, Any]) -> str | bytes:
    return str(typed["S"]) if "S" in typed else _bytes(typed)


def _bytes(typed: Mapping[str, Any]) -> bytes:
    packed = typed["B"]
    # The client decodes binary values; the change stream delivers them in base64.
    return packed if isinstance(packed, bytes) else base64.b64decode(packed, validate=True)


def _escaped(part: str) -> str:
    # Both parts may hold the separator. Unescaped, two identities could share a key.
    return part.replace("%", "%25").replace("#", "%23")


def _unescaped(part: str) -> str:
    return part.replace("%23", "#").replace("%25", "%")
