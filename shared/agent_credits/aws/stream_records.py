"""What one record of AccountsTable's change stream says, by the kind of row that it is about."""

from collections.abc import Mapping
from typing import Any

from agent_credits.aws.items import (
    account_from_item,
    is_account_item,
    is_observation_item,
    observation_from_item,
    team_from_item,
)
from agent_credits.notices.announcements import AccountRecord, Observed, StreamRecord, TeamRecord


def change_of(images: Mapping[str, Any]) -> StreamRecord:
    """Read a record's images; raises where this version does not understand them.

    The function then fails on the whole batch, and Lambda halves the batch until the record is
    alone: reported as one failed item, it would take those behind it along when it is set aside.
    """
    old, new = images.get("OldImage"), images["NewImage"]
    if is_account_item(new):
        return AccountRecord(account_from_item(old) if old else None, account_from_item(new))
    if is_observation_item(new):
        return Observed(observation_from_item(new))
    return TeamRecord(team_from_item(old) if old else None, team_from_item(new))
