"""A notice as a message for Slack: what happened, the facts, what to do now, where to look.

It is made from the CloudEvent alone. What a notice's type brings along in `data` becomes a field of
the message by its name and unit, so that a new type needs nothing here. Whatever stands in a notice
is escaped: nobody can make us ping a channel or show a link.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import Any, Final, get_args

from msgspec import Struct
from slack_sdk.models.attachments import BlockAttachment
from slack_sdk.models.blocks import (
    Block,
    ContextBlock,
    HeaderBlock,
    MarkdownTextObject,
    PlainTextObject,
    SectionBlock,
)

from agent_credits.ledger.reloads import DeclineCause
from agent_credits.notices.notice import Severity, format_money
from agent_credits.notices.published import Published
from agent_credits.notices.reload_declines import decline_in_words

# Slack's limits, of which a message that passes one is declined altogether.
HEADER_LENGTH_MAX: Final = 150
TEXT_LENGTH_MAX: Final = 3_000
FIELD_LENGTH_MAX: Final = 2_000
FIELDS_PER_SECTION_MAX: Final = 10
# Ours: more than that nobody reads in a channel.
FIELDS_MAX: Final = 30
LINES_MAX: Final = 10
VALUE_LENGTH_MAX: Final = 300


class _Look(Struct, frozen=True):
    colour: str
    emoji: str
    words: str


LOOKS: Final[Mapping[Severity, _Look]] = {
    "critical": _Look("#E01E5A", ":rotating_light:", "Critical: act now"),
    "warning": _Look("#ECB22E", ":warning:", "Warning: act soon"),
    "info": _Look("#2EB67D", ":information_source:", "For your information"),
}

# What stands elsewhere in the message, or is for machines alone.
_NOT_A_FIELD: Final = frozenset(
    {"classification", "currency", "fix", "pools", "problem", "project_id", "retryable", "run_id"}
    | {"task_state", "team_id", "traceparent", "tracestate"}
)
# Names that say it better than the member's own.
_LABELS: Final = {
    "auto_reload.cause": "Why no reload",
    "auto_reload.state": "Auto-reload",
    "available_credits": "Left",
    "cause": "Why",
    "percent_left": "Per cent left",
    "percent_of_credits": "Per cent of",
    "principal": "Billed",
    "resets_at": "Refills",
    "shortfall_credits": "Short by",
    "trigger": "Started by",
}
_CAUSES: Final = {
    "pools_exhausted": "the pools are exhausted",
    **{cause: decline_in_words(cause) for cause in get_args(DeclineCause)},
}
_TRIGGERS: Final = {
    "schedule": "a schedule",
    "team_api_key": "a team API key",
    "user": "a user",
}


def slack_message(published: Published) -> BlockAttachment:
    """Return the message: an attachment, because only that has a colour."""
    look, data = LOOKS[published.severity], published.notice["data"]
    fields = [*_fields(data), *_pools(data)]
    blocks: list[Block] = [
        HeaderBlock(text=PlainTextObject(text=_header(look, published.subject), emoji=True)),
        *_sections(fields[:FIELDS_MAX]),
        *_lists(data),
        *_what_to_do(data),
        ContextBlock(elements=[_markdown(text) for text in _context(published, look)]),
    ]
    return BlockAttachment(
        blocks=blocks, color=look.colour, fallback=_header(look, published.subject)
    )


def escape(text: str) -> str:
    """Return text that Slack shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _header(look: _Look, subject: str) -> str:
    return _shortened(f"{look.emoji} {_text(subject)}", HEADER_LENGTH_MAX)


def _text(value: object) -> str:
    """Return a value in one line, escaped and of bounded length."""
    return escape(_cut(" ".join(str(value).split()), VALUE_LENGTH_MAX))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _shortened(text: str, length: int) -> str:
    """Cut escaped text, never inside of an escape."""
    if len(text) <= length:
        return text
    kept = text[: length - 1]
    begun = kept.rfind("&")
    if begun >= 0 and ";" not in kept[begun:]:
        kept = kept[:begun]
    return f"{kept}…"


def _markdown(text: str) -> MarkdownTextObject:
    # Verbatim: names that look like channels, people or addresses stay text.
    return MarkdownTextObject(text=text, verbatim=True)


def _fields(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a label and a value for each fact; what is nested one level deep belongs to it."""
    currency = data.get("currency")
    for name, value in data.items():
        if name in _NOT_A_FIELD or value is None or isinstance(value, list):
            continue
        members = value.items() if isinstance(value, dict) else [("", value)]
        for member, inner in members:
            full_name = f"{name}.{member}" if member else name
            if inner is not None and not isinstance(inner, dict | list):
                yield _label(full_name, data), _value(full_name, inner, currency)
    if "resets_at" in data and data["resets_at"] is None:
        yield _LABELS["resets_at"], "never: no plan"


def _label(name: str, data: Mapping[str, Any]) -> str:
    if name in _LABELS:
        return _LABELS[name]
    for unit in ("_cents", "_credits", "_at"):
        # Without its unit a name may be that of another fact.
        if name.removesuffix(unit) not in data:
            name = name.removesuffix(unit)
    return _text(name.replace("_", " ").replace(".", ": ").capitalize())


def _value(name: str, value: object, currency: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int() if name.endswith("_cents") and isinstance(currency, str):
            return _text(format_money(value, currency))
        case str() if name == "trigger":
            return _text(_TRIGGERS.get(value, value))
        case str() if name in ("cause", "auto_reload.cause"):
            return _text(_sentence(_CAUSES.get(value, value)))
        case str() if name.endswith("_credits"):
            return f"{_text(value)} credits"
        case str():
            return _moment(value) or _text(value)
        case _:
            return _text(value)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}"


def _moment(value: str) -> str | None:
    """Return an instant so that each reader sees it in the own time zone; None for other text."""
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        return None
    # What lies within a day of the ends of the calendar may have no time in UTC.
    if instant.tzinfo is None or not MINYEAR < instant.year < MAXYEAR:
        return None
    in_utc = f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"<!date^{int(instant.timestamp())}^{{date_short_pretty}} at {{time}}|{in_utc}>"


def _pools(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    pools = data.get("pools")
    for pool in pools if isinstance(pools, list) else []:
        if isinstance(pool, dict) and "pool" in pool:
            left = pool.get("remaining_credits", "?")
            yield f"Pool {_text(pool['pool'])}", f"{_text(left)} credits left"


def _sections(fields: Sequence[tuple[str, str]]) -> Iterator[SectionBlock]:
    texts = [_shortened(f"*{label}*\n{value}", FIELD_LENGTH_MAX) for label, value in fields]
    for start in range(0, len(texts), FIELDS_PER_SECTION_MAX):
        part = texts[start : start + FIELDS_PER_SECTION_MAX]
        yield SectionBlock(fields=[_markdown(text) for text in part])


def _lists(data: Mapping[str, Any]) -> Iterator[SectionBlock]:
    """Yield a section for each list of the data that has no place of its own."""
    for name, values in data.items():
        if name in _NOT_A_FIELD or not isinstance(values, list) or not values:
            continue
        lines = [f"• {_row(value)}" for value in values[:LINES_MAX]]
        if len(values) > LINES_MAX:
            lines.append(f"… and {len(values) - LINES_MAX} more")
        yield _paragraph(_label(name, data), lines)


def _row(value: object) -> str:
    if not isinstance(value, dict):
        return _text(value)
    parts = [
        f"{name.replace('_', ' ')} {inner}"
        for name, inner in value.items()
        if inner is not None and not isinstance(inner, dict | list)
    ]
    return _text(", ".join(parts))


def _what_to_do(data: Mapping[str, Any]) -> Iterator[SectionBlock]:
    fix, problem = data.get("fix"), data.get("problem")
    lines = [f"• {_text(step)}" for step in (fix if isinstance(fix, list) else [])[:LINES_MAX]]
    if isinstance(problem, dict) and problem.get("retryable") is False:
        lines.append("Until then a retry fails as well.")
    if lines:
        yield _paragraph("What to do now", lines)


def _paragraph(label: str, lines: Sequence[str]) -> SectionBlock:
    text = "\n".join([f"*{label}*", *lines])
    return SectionBlock(text=_markdown(_shortened(text, TEXT_LENGTH_MAX)))


def _context(published: Published, look: _Look) -> Iterator[str]:
    """Yield what leads on from here: to the run, the team, the project and the trace."""
    data = published.notice["data"]
    yield f"*{look.words}*"
    for label, name in (("run", "run_id"), ("team", "team_id"), ("project", "project_id")):
        if data.get(name):
            yield f"{label} {_text(data[name])}"
    # version-trace-span-flags, by the W3C's Trace Context.
    trace = str(data.get("traceparent") or "").split("-")
    if len(trace) == 4:
        yield f"trace {_text(trace[1])}"
    yield _moment(str(published.notice["time"])) or _text(published.notice["time"])
