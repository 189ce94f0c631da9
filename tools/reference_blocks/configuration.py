"""The keys of the file that `agent-credits apply` takes, read from the models that check it.

Types, defaults and bounds come from the models. What a key means is written here, and a key
without its meaning, or a meaning without its key, is an error.
"""

import types
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import AwareDatetime, BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from agent_credits.billing.teams import MEMBERS_MAX, TENURE_NOTICE
from agent_credits.ledger.grants import GRANTS_MAX, RESERVED_PREFIXES
from agent_credits.values.credits import CREDITS_MAX, parse_credits
from agent_credits.values.identifiers import Currency, Identifier, PoolName, RulePool
from agent_credits_cli import world
from tools.blocks import table

# What the demo tries on a world and expects of it; `apply` ignores these tables.
FOR_THE_DEMO: Final = {"cards", "samples", "balances"}

_NOTICE_MINUTES: Final = int(TENURE_NOTICE.total_seconds() // 60)
_RESERVED: Final = ", ".join(f"`{prefix}`" for prefix in RESERVED_PREFIXES)

MEANINGS: Final[Mapping[str, str]] = {
    "policy.version": (
        "Names these rules in every entry that is decided under them. A version that is applied"
        " never changes: give changed rules a new one."
    ),
    "policy.grace_days": (
        "Credits that come back to a grant which has expired meanwhile can be used until this many"
        " days after the grant's own expiry, however often credits come back to it. Later than that"
        " they do not come back."
    ),
    "policy.rules.team": (
        "The kind of team that the rule is for. For each kind of team and trigger, exactly one rule"
        " must answer."
    ),
    "policy.rules.triggers": "The triggers that the rule is for. Only a `user` trigger has a user.",
    "policy.rules.payer": (
        "Who pays: the `user` who started the run, the `owner` of the team, or the `team` itself."
        " In an enterprise team the payer is `user` or `team`."
    ),
    "policy.rules.pools": (
        "The payer's pools in the order in which they are drawn; each once. Behind them, pools that"
        " the team shares: `team:shared` is the pool `shared` of the team's own account. See"
        " [share a pool in a team](../how-to/shared-pools.md)."
    ),
    "policy.rules.reserve": (
        "Whether a run that is requested puts its estimate aside, unless its event says otherwise:"
        " see [reservations](../explanation/reservations.md)."
    ),
    "policy.rules.default_estimate": (
        "The estimate of a run whose event gives none. A run that draws past its reservation"
        " extends it by as much, as long as there is something to extend by; at 0 it does not."
    ),
    "policy.rules.reservation_ttl_seconds": (
        "How long a reservation lasts without usage or an extension, unless its event says"
        " otherwise. After that its credits are available again."
    ),
    "policy.rules.overrun": (
        "What the platform is told to do with a run that has used up its reservation. Under"
        " `finish` it goes on and draws whatever nobody holds; under `pause` and `stop` it draws at"
        " most `grace_credits` of that."
    ),
    "policy.rules.grace_credits": (
        "What a run and the runs below it may draw past the reservation, together. Only with"
        ' `overrun` `"pause"` or `"stop"`.'
    ),
    "policy.packs.credits": (
        "Credits in the pack. No two packs of one currency have the same size."
    ),
    "policy.packs.price_cents": "Its price in minor units: 1000 is 10.00 USD.",
    "policy.packs.currency": (
        "ISO 4217 code in lower case. A team reloads with packs in its own `currency` alone."
    ),
    "plans.name": "The name that teams refer to.",
    "plans.kind": "The kind of team that may have the plan.",
    "plans.pool": "The pool that the plan refills. A rule for this kind of team must draw it.",
    "plans.credits": (
        "Credits that an account gets for each period; what is left of them expires with it. A"
        " self-serve plan must give some. A changed amount counts from the next refill."
    ),
    "teams.team_id": "The team's name in events.",
    "teams.kind": "Decides which rules bill the team's runs.",
    "teams.plan": "One of `[[plans]]` of the same kind.",
    "teams.owner": (
        "The member who pays for runs without a user, where the rule says `owner`. Another owner,"
        f" kind or policy counts {_NOTICE_MINUTES} minutes after it is applied."
    ),
    "teams.members": (
        'The users who may start runs. `"*"` is every user of the platform, for teams in which no'
        " user pays. A user whose own account pays belongs to one team. A user who joins counts at"
        f" once; one who is removed starts no run from {_NOTICE_MINUTES} minutes after it is"
        " applied, and what they used before still counts."
    ),
    "teams.time_zone": (
        "The zone of the spend cap's calendar month, so another zone ends a decline because of the"
        " cap, and of the periods of limits. Plan periods are in UTC."
    ),
    "teams.anchor": (
        "The day on which plan periods begin, each month on the same day; in a shorter month, on"
        " its last. It cannot change once an account has been refilled."
    ),
    "teams.policy": (
        "The `version` of one of `[[policies]]` that bills the team in place of `[policy]`. Another"
        f" policy counts {_NOTICE_MINUTES} minutes after it is applied."
    ),
    "teams.policy_from": (
        "When `policy` begins. Runs of before are billed by `[policy]`, however late their events"
        " come. It may be in the past for a team that is new; for one that exists, the notice"
        " counts."
    ),
    "teams.spend_cap_cents": (
        "Most that automatic and manual purchases may cost in a calendar month, in minor units."
        " At 0 nothing can be purchased."
    ),
    "teams.currency": (
        "ISO 4217 code, in lower case, of the cap and of every purchase, by reload or by hand. The"
        " pack of `auto_reload` must be in it. It changes only while nothing is spent or reserved"
        " in the current month."
    ),
    "teams.auto_reload.enabled": "Turns reloading on. It needs a spend cap and `[teams.payment]`.",
    "teams.auto_reload.pool": (
        "The pool that reloads go into. A rule for this team must draw it, and only runs that draw"
        " it ask for a reload."
    ),
    "teams.auto_reload.threshold": "Reload when fewer credits than this are available.",
    "teams.auto_reload.pack": (
        "The pack to buy: the size of one of `[[policy.packs]]` in the team's currency. Its price"
        " is that of the newest policy, at once."
    ),
    "teams.auto_reload.reloads_max": (
        "Reloads of one account within the window; one more freezes its reloads until the window"
        " has passed."
    ),
    "teams.auto_reload.window_minutes": "The window that `reloads_max` counts in.",
    "teams.payment.provider": (
        "`stripe` charges a card; `invoice` grants the credits and leaves the bill to you."
    ),
    "teams.payment.customer": "Stripe's customer (`cus_…`); required for `stripe`, and only there.",
    "teams.payment.payment_method": (
        "The card on file at Stripe (`pm_…`); required for `stripe`, and only there."
    ),
    "teams.alerts.low": (
        "Where to warn: a share of the period's plan, or credits. An empty list warns of nothing."
    ),
    "teams.limits.scope": (
        "What is limited: all runs of the `team`, those of a `project`, those that a `member`"
        " starts, or each `run` by itself. See [limit what runs draw](../how-to/limits.md)."
    ),
    "teams.limits.id": (
        "The project or the member. Without it, the limit holds for each of them by itself, but for"
        " those with a limit of their own for the same period. `team` and `run` take none."
    ),
    "teams.limits.period": (
        "How long credits are counted together: calendar days, weeks from Monday and months in the"
        ' team\'s `time_zone`, or each run. With `scope = "run"` it is `run`; a `team` has no'
        " `run`."
    ),
    "teams.limits.credits": "What may be drawn in each period. At 0, nothing.",
    "teams.limits.action": (
        "At the limit, `stop` refuses new runs and reservations, and usage is short of the rest;"
        " `warn` only counts and announces."
    ),
    "teams.limits.warn_at": (
        "Per cent of the limit, from 1 to 100 and in ascending order, at which `limit.warning` is"
        " published, once per period. An empty list warns of nothing."
    ),
    "teams.limits.raise_until": (
        "Until then the limit neither stops nor warns. What is drawn meanwhile counts."
    ),
    "grants.principal": "The account; a team in this file must pay from it.",
    "grants.id": (
        "Makes a repeat harmless: it counts once for each account. It does not begin with"
        f" {_RESERVED}. An account holds at most {GRANTS_MAX} grants."
    ),
    "grants.pool": (
        "The pool to put the credits into. A rule must draw it. What a team shares as `team:shared`"
        " is the pool `shared` of its own account."
    ),
    "grants.credits": "How many.",
    "grants.cause": (
        "Why. Purchases, contracts, and whatever is in the pool `trial` are announced before they"
        " expire."
    ),
    "grants.expires_at": "When the credits expire; never, if neither this nor the next is there.",
    "grants.expires_in_days": "The same, in days from when the grant is applied.",
}


def tables() -> str:
    """Return one table for each table of the file, in the order in which the file declares them."""
    keys = [(path, key) for path, key in _keys(world.World, "") if not path.startswith(_ALIKE)]
    undescribed = {path for path, _ in keys} ^ MEANINGS.keys()
    if undescribed:
        raise LookupError(f"keys and meanings differ: {', '.join(sorted(undescribed))}")
    by_table: dict[str, list[tuple[str, str, str, str]]] = {}
    for path, field in keys:
        parent, _, key = path.rpartition(".")
        row = (f"`{key}`", _phrase(field.annotation, field.metadata), _default(field))
        by_table.setdefault(parent, []).append((*row, MEANINGS[path]))
    parts = []
    for name, rows in by_table.items():
        listing = table(("key", "value", "default", "meaning"), rows)
        parts.append(f"\n### `{_heading(name)}`\n\n{listing}\n")
    return "".join(parts)


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key that takes a value; a table's own keys come before those of tables in it."""
    below = []
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        if path in FOR_THE_DEMO:
            continue
        inner = _model_in(field.annotation)
        if inner is None:
            yield path, field
        else:
            below.append((inner, f"{path}."))
    for inner, inner_prefix in below:
        yield from _keys(inner, inner_prefix)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation holds one or many of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is dict:
        return None
    found = [model for part in get_args(annotation) if (model := _model_in(part))]
    return found[0] if found else None


# Each of [[policies]] has the keys of [policy], which are described there.
_ALIKE: Final = "policies."

# The tables that a file may hold several of, and so are written with two brackets.
_LISTS: Final = {"policy.rules", "policy.packs", "plans", "teams", "teams.limits", "grants"}


def _heading(name: str) -> str:
    return f"[[{name}]]" if name in _LISTS else f"[{name}]"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        quoted = ", ".join(str(p) if isinstance(p, int) else f'"{p}"' for p in value)
        return f"`[{quoted}]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:,}`"


def _phrase(annotation: Any, metadata: list[Any]) -> str:
    """Return what a key takes, in words, with its bounds."""
    for part in metadata:
        special = _VALIDATED.get(getattr(getattr(part, "func", None), "__name__", ""))
        if special is not None:
            return special
        if isinstance(part, StringConstraints):
            return _text(part)
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        return _phrase(inner, [*own, *metadata])
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = (part for part in get_args(annotation) if part is not types.NoneType)
        return _phrase(inner, metadata)
    if get_origin(annotation) is Literal:
        *values, last = (f"`{value}`" for value in get_args(annotation))
        return f"{', '.join(values)} or {last}"
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)[0]
        return f"list{_lengths(metadata)}, each {_phrase(inner, [])}"
    if get_origin(annotation) is dict:
        key, value = get_args(annotation)
        return f"table of {_phrase(value, [])}, by {_phrase(key, [])}"
    return f"{_PLAIN[annotation]}{_bounds(metadata)}"


# By the name of the function that reads the value.
_VALIDATED: Final[Mapping[str, str]] = {
    parse_credits.__name__: f"credits, more than 0, at most {CREDITS_MAX:,}",
    "_credits_or_none": f"credits, at most {CREDITS_MAX:,}",
    "_listed": f'list of at most {MEMBERS_MAX:,} identifiers, or `"*"`',
    "_time_zone": 'IANA time zone, such as `"Europe/Berlin"`',
    "parse_threshold": '`"1%"` to `"100%"`, or credits',
    "_principal": "`user:<id>` or `team:<id>`",
}
_PLAIN: Final[Mapping[Any, str]] = {
    bool: "`true` or `false`",
    int: "integer",
    str: "text",
    date: "date",
    AwareDatetime: "instant with an offset",
}


def _text(constraints: StringConstraints) -> str:
    known_texts = (
        ("identifier", Identifier),
        ("name of a pool", PoolName),
        ("name of a pool, or `team:<pool>`", RulePool),
        ("three small letters", Currency),
    )
    for words, known in known_texts:
        if constraints == get_args(known)[1]:
            return words
    raise LookupError(f"no words for the text {constraints}")


def _lengths(metadata: list[Any]) -> str:
    low = [part.min_length for part in metadata if isinstance(part, annotated_types.MinLen)]
    high = [part.max_length for part in metadata if isinstance(part, annotated_types.MaxLen)]
    if low and high:
        return f" of {low[0]} to {high[0]}"
    if high:
        return f" of at most {high[0]}"
    return f" of at least {low[0]}" if low else ""


def _bounds(metadata: list[Any]) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    bounds = [
        f"{word} {getattr(part, name):,}"
        for part in metadata
        for name, word in words.items()
        if hasattr(part, name)
    ]
    pattern = [f"matching `{part.pattern}`" for part in metadata if getattr(part, "pattern", None)]
    return "".join(f", {bound}" for bound in (*bounds, *pattern, *_lengths_of_text(metadata)))


def _lengths_of_text(metadata: list[Any]) -> list[str]:
    return ["not empty" for part in metadata if isinstance(part, annotated_types.MinLen)]
