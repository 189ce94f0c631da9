"""The notices that were published, kept for a while, so that they can be listed afterwards.

SNS keeps nothing, a queue cannot be read without receiving from it, and neither the rows nor the
ledger could give the notices back: they say nothing of versions, of thresholds that have been left
since, or of a team's spending as it was.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from msgspec import Struct

from agent_credits.notices.notice import Notice
from agent_credits.notices.published import Published, severity_of
from agent_credits.values.display import count_text
from agent_credits.values.errors import RowsUnavailable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEPT_FOR = timedelta(days=30)
# More than a day of notices at the rate that one partition takes.
RESULT_PAGES_MAX = 100_000


class NoticesNotKept(RowsUnavailable):
    """So many notices were published and not kept. Publish none of them again for that."""

    def __init__(self, notices: int) -> None:
        super().__init__(f"{count_text(notices, 'notice')} published and not kept")
        self.notices = notices


class KeptNotice(Struct, frozen=True):
    """A notice, and when it was published."""

    published_at: datetime
    published: Published


class KeptNotices:
    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

    def put_all(self, notices: Sequence[Notice], published_at: datetime) -> None:
        """Keep notices that were just published. Raises `NoticesNotKept`.

        The first fault ends it, so that a table that does not answer cannot use up the time of the
        function.
        """
        for number, notice in enumerate(notices):
            try:
                self._put(notice, published_at)
            except (BotoCoreError, ClientError) as fault:
                raise NoticesNotKept(len(notices) - number) from fault

    def _put(self, notice: Notice, published_at: datetime) -> None:
        instant = _sortable(published_at)
        self._client.put_item(
            TableName=self._table,
            Item={
                "day": {"S": _day(published_at)},
                "published": {"S": f"{instant}#{notice.id}"},
                "notice_type": {"S": notice.type},
                "team_id": {"S": notice.team_id},
                "severity": {"S": notice.severity},
                "email_subject": {"S": notice.email_subject},
                "notice": {"S": json.dumps(notice.to_cloudevent())},
                "expires_at": {"N": str(int((published_at + KEPT_FOR).timestamp()))},
            },
        )

    def newest_first(
        self,
        since: datetime,
        until: datetime,
        notice_type: str | None = None,
        team_id: str | None = None,
    ) -> Iterator[KeptNotice]:
        """Yield what was published from `since` to `until`, and read only as much as is used.

        A notice that was published again after a fault has the id of the first: it is yielded once.
        Raises `RowsUnavailable` on a fault.
        """
        # DynamoDB removes what has expired within days, not at once.
        since = max(since, until - KEPT_FOR)
        seen: set[str] = set()
        for days in range(KEPT_FOR.days + 1):
            day = _day(until - timedelta(days=days))
            if day < _day(since):
                return
            for item in self._of_day(day, since, until, notice_type, team_id):
                kept = _kept_from_item(item)
                if kept.published.id not in seen:
                    seen.add(kept.published.id)
                    yield kept

    def _of_day(
        self,
        day: str,
        since: datetime,
        until: datetime,
        notice_type: str | None,
        team_id: str | None,
    ) -> Iterator[Mapping[str, Any]]:
        is_of_the_type = "notice_type = :notice_type"
        is_of_the_team = "team_id = :team_id"
        wanted = [
            (is_of_the_type, ":notice_type", notice_type),
            (is_of_the_team, ":team_id", team_id),
        ]
        filters = [(clause, name, value) for clause, name, value in wanted if value is not None]
        request: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": "#day = :day AND published BETWEEN :since AND :until",
            "ExpressionAttributeNames": {"#day": "day"},
            "ExpressionAttributeValues": {
                ":day": {"S": day},
                ":since": {"S": _sortable(since)},
                # "~" comes after "#", so what was published at this very instant is included.
                ":until": {"S": f"{_sortable(until)}~"},
                **{name: {"S": value} for _, name, value in filters},
            },
            "ScanIndexForward": False,
        }
        if filters:
            request["FilterExpression"] = " AND ".join(clause for clause, _, _ in filters)
        for _ in range(RESULT_PAGES_MAX):
            try:
                page = self._client.query(**request)
            except (BotoCoreError, ClientError) as fault:
                raise RowsUnavailable(str(fault)) from fault
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]
        raise RuntimeError(f"more than {RESULT_PAGES_MAX} pages of notices in one day")


def _day(instant: datetime) -> str:
    return instant.astimezone(UTC).date().isoformat()


def _sortable(instant: datetime) -> str:
    """Return the instant as text of one length, so that text and time have the same order."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _kept_from_item(item: Mapping[str, Any]) -> KeptNotice:
    published = Published(
        item["email_subject"]["S"],
        severity_of(item["severity"]["S"]),
        json.loads(item["notice"]["S"]),
    )
    instant = str(item["published"]["S"]).partition("#")[0]
    return KeptNotice(datetime.fromisoformat(instant), published)
