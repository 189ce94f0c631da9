"""Reads one record of AccountsTable's change stream, by the kind of its row."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent_credits.aws.items import (
    account_from_item,
    is_account_item,
    is_limit_item,
    is_observation_item,
    limit_row_from_item,
    observation_from_item,
    team_from_item,
)
from agent_credits.notices.announcements import (
    AccountRecord,
    LimitRecord,
    Observed,
    StreamRecord,
    TeamRecord,
)


def change_of(images: Mapping[str, Any]) -> StreamRecord:
    """Read a record's images; raises if this version does not understand them."""
    old, new = images.get("OldImage"), images["NewImage"]
    if is_account_item(new):
        return AccountRecord(account_from_item(old) if old else None, account_from_item(new))
    if is_observation_item(new):
        return Observed(observation_from_item(new))
    # The same at each delivery of the record, so that a notice has one time.
    written_at = datetime.fromtimestamp(images["ApproximateCreationDateTime"], UTC)
    if is_limit_item(new):
        before = limit_row_from_item(old) if old else None
        return LimitRecord(before, limit_row_from_item(new), written_at)
    return TeamRecord(team_from_item(old) if old else None, team_from_item(new), written_at)
