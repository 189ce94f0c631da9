"""Blocks of a page that a program writes, between `<!-- OWNER:NAME -->` and `<!-- OWNER:end -->`.

What stands outside the blocks is written by hand, so that a page can explain what its tables list.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence


def pattern(owner: str) -> re.Pattern[str]:
    """Return what finds the blocks of an owner on a page, each by its `name`."""
    return re.compile(rf"<!-- {owner}:(?P<name>[a-z-]+) -->\n.*?<!-- {owner}:end -->", re.DOTALL)


def refreshed(page: str, owner: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """Return the page with each of the owner's blocks written again."""

    def written(block: re.Match[str]) -> str:
        name = block["name"]
        return f"<!-- {owner}:{name} -->\n{blocks[name]()}\n<!-- {owner}:end -->"

    return pattern(owner).sub(written, page)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a heading that begins with ">" is of a column of numbers."""
    ruler = ["---:" if heading.startswith(">") else "---" for heading in headings]
    lines = [[heading.removeprefix(">") for heading in headings], ruler, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
