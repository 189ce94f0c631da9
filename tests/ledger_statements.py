"""The statements that the ledger is written with, read back into the items that they insert."""

import re
from collections.abc import Mapping
from typing import Any

from agent_credits.aws.items import Item

INSERTION = re.compile(r"""INSERT INTO "(?P<table>[^"]+)" VALUE \{(?P<values>[^{}]*)\}""")
VALUE = re.compile(r"'([a-z_]+)': \?")


def inserted_item(statement: Mapping[str, Any]) -> tuple[str, Item]:
    """Return the table and the item of one entry of BatchExecuteStatement; it must be an INSERT."""
    insertion = INSERTION.fullmatch(statement["Statement"])
    assert insertion, f"not the statement that inserts an item: {statement['Statement']}"
    names = VALUE.findall(insertion["values"])
    return insertion["table"], dict(zip(names, statement["Parameters"], strict=True))
