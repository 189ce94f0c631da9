"""A notice as a message for Slack: what happened, the facts, what to do now, and where to look.

A message is made only from the CloudEvent, so a new type of notice needs nothing here. All text of
a notice is escaped: no name in it can ping a channel or show a link.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

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

from agent_credits.notices.facts import (
    Fact,
    all_facts,
    facts,
    instant_of,
    is_said_elsewhere,
    label_of,
    pool_facts,
)
from agent_credits.notices.limit_words import is_limit, limit_facts, limit_row_text
from agent_credits.notices.notice import Severity
from agent_credits.notices.published import Published
from agent_credits.values.display import ELLIPSIS, shortened, time_text

# Slack's limits. It rejects a message that passes one of them.
HEADER_LENGTH_MAX: Final = 150
TEXT_LENGTH_MAX: Final = 3_000
FIELD_LENGTH_MAX: Final = 2_000
FIELDS_PER_SECTION_MAX: Final = 10
# Our own limits: nobody reads more than this in a channel.
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

# Members of `data` that are shown elsewhere in the message, or that only machines need.
_NOT_A_FIELD: Final = frozenset(
    {"classification", "currency", "fix", "pools", "problem", "project_id", "retryable", "run_id"}
    | {"task_state", "team_id", "traceparent", "tracestate", "trigger_id"}
)


def slack_message(published: Published) -> BlockAttachment:
    """Return the message as an attachment, because only an attachment has a colour."""
    look, data = LOOKS[published.severity], published.notice["data"]
    pools = (Fact(f"Pool {pool.label}", pool.value) for pool in pool_facts(data))
    # What is called a limit and has no limit's members is shown like any other data.
    elsewhere = _NOT_A_FIELD | ({"limit"} if is_limit(data.get("limit")) else frozenset())
    fields = [*all_facts(data, elsewhere), *limit_facts(data), *pools]
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
    """Return text that Slack shows unchanged."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _header(look: _Look, subject: str) -> str:
    return _shortened(f"{look.emoji} {_text(subject)}", HEADER_LENGTH_MAX)


def _text(value: object) -> str:
    """Return a value on one line, escaped and of bounded length."""
    return escape(shortened(" ".join(str(value).split()), VALUE_LENGTH_MAX))


def _shortened(escaped: str, length_max: int) -> str:
    """Cut escaped text, but never inside an escape."""
    short = shortened(escaped, length_max)
    if short == escaped:
        return escaped
    kept = short.removesuffix(ELLIPSIS)
    start_of_escape = kept.rfind("&")
    if start_of_escape >= 0 and ";" not in kept[start_of_escape:]:
        kept = kept[:start_of_escape]
    return f"{kept}{ELLIPSIS}"


def _markdown(text: str) -> MarkdownTextObject:
    # Verbatim: names that look like channels, people or addresses stay text.
    return MarkdownTextObject(text=text, verbatim=True)


def _instant(instant: datetime) -> str:
    """Return an instant so that Slack shows it in each reader's own time zone."""
    seconds = int(instant.timestamp())
    return f"<!date^{seconds}^{{date_short_pretty}} at {{time}}|{time_text(instant)}>"


def _fact_value(fact: Fact) -> str:
    return _instant(fact.value) if isinstance(fact.value, datetime) else _text(fact.value)


def _sections(fields: Sequence[Fact]) -> Iterator[SectionBlock]:
    texts = [
        _shortened(f"*{_text(fact.label)}*\n{_fact_value(fact)}", FIELD_LENGTH_MAX)
        for fact in fields
    ]
    for start in range(0, len(texts), FIELDS_PER_SECTION_MAX):
        part = texts[start : start + FIELDS_PER_SECTION_MAX]
        yield SectionBlock(fields=[_markdown(text) for text in part])


def _lists(data: Mapping[str, Any]) -> Iterator[SectionBlock]:
    """Yield a section for each list of the data that is not shown elsewhere."""
    for name, values in data.items():
        if name in _NOT_A_FIELD or not isinstance(values, list) or not values:
            continue
        if is_said_elsewhere(name, data):
            continue
        lines = [f"• {_row(value)}" for value in values[:LINES_MAX]]
        # The list of a notice may itself be the first part of a longer one.
        count = data.get(f"{name}_count")
        more = max(count if isinstance(count, int) else 0, len(values)) - len(lines)
        if more:
            lines.append(f"… and {more:,} more")
        yield _paragraph(_text(label_of(name, data)), lines)


def _row(value: object) -> str:
    if not isinstance(value, dict):
        return _text(value)
    if is_limit(value):
        return _text(limit_row_text(value))
    return _text("; ".join(f"{fact.label}: {fact.text}" for fact in facts(value, *value)))


def _what_to_do(data: Mapping[str, Any]) -> Iterator[SectionBlock]:
    fix, problem = data.get("fix"), data.get("problem")
    lines = [f"• {_text(step)}" for step in (fix if isinstance(fix, list) else [])[:LINES_MAX]]
    limit = data.get("limit")
    new_run_helps = is_limit(limit) and limit["period"] == "run"
    if isinstance(problem, dict) and problem.get("retryable") is False and not new_run_helps:
        lines.append("Until then, retrying will not help.")
    if lines:
        yield _paragraph("What to do now", lines)


def _paragraph(label: str, lines: Iterable[str]) -> SectionBlock:
    text = "\n".join([f"*{label}*", *lines])
    return SectionBlock(text=_markdown(_shortened(text, TEXT_LENGTH_MAX)))


def _context(published: Published, look: _Look) -> Iterator[str]:
    """Yield where to look next: the run, the team, the project and the trace."""
    data, time = published.notice["data"], str(published.notice["time"])
    yield f"*{look.words}*"
    for label, name in (("run", "run_id"), ("team", "team_id"), ("project", "project_id")):
        if data.get(name):
            yield f"{label} {_text(data[name])}"
    # version-trace-span-flags, as in the W3C's Trace Context.
    trace = str(data.get("traceparent") or "").split("-")
    if len(trace) == 4:
        yield f"trace {_text(trace[1])}"
    instant = instant_of(time)
    yield _instant(instant) if instant else _text(time)
