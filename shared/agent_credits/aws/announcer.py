"""Announces one record of the change stream: its reload requests, then its notices."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError
from msgspec import Struct

from agent_credits.aws.faults import may_pass
from agent_credits.aws.reload_queue import ReloadQueue
from agent_credits.aws.set_aside import reason_of
from agent_credits.aws.stream_records import change_of
from agent_credits.aws.topic import NoticesTopic
from agent_credits.ledger.reloads import ReloadRequest
from agent_credits.notices.announcements import (
    AccountRecord,
    NoticeSettings,
    notices_of,
    reload_requests,
)
from agent_credits.notices.notice import Notice
from agent_credits.values.errors import NotAnnounceable

Record = dict[str, Any]


class Announced(Struct, frozen=True):
    """What was sent because of a record."""

    requests: Sequence[ReloadRequest] = ()
    notices: Sequence[Notice] = ()


class Replay(Struct, frozen=True):
    """The answer to the operator's command: what became of the record, and why."""

    outcome: Literal["announced", "not_announceable", "not_now"]
    published: int = 0
    reason: str = ""


class Announcer:
    def __init__(
        self, topic: NoticesTopic, reloads: Callable[[], ReloadQueue], settings: NoticeSettings
    ) -> None:
        self._topic = topic
        self._reloads = reloads
        self._settings = settings

    def announce(self, record: Record) -> Announced:
        """Raises `NotAnnounceable`, or the fault of an AWS call, which may pass.

        All of it is derived before any of it is sent, so what cannot be derived sends nothing.
        """
        try:
            change = change_of(record["dynamodb"])
            requests = reload_requests(change) if isinstance(change, AccountRecord) else []
            notices = notices_of(change, self._settings)
            for request in requests:
                self._reloads().send(request)
            for notice in notices:
                self._topic.publish(notice)
        except Exception as error:
            # Whatever it is: one bad record must not hold up every account of its shard.
            if may_pass(error):
                raise
            raise NotAnnounceable(type(error).__name__) from error
        return Announced(requests, notices)

    def replay(self, record: Record) -> tuple[Announced, Replay]:
        """Announce a record that was set aside, and which is kept unless it was announced."""
        try:
            announced = self.announce(record)
        except NotAnnounceable as error:
            return Announced(), Replay("not_announceable", reason=reason_of(error))
        except (BotoCoreError, ClientError) as fault:
            return Announced(), Replay("not_now", reason=reason_of(fault))
        return announced, Replay("announced", published=len(announced.notices))
