"""The queue of reload requests: FIFO, one group per team, one message per reload."""

import hashlib
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from agent_credits.ledger.reloads import ReloadRequest
from agent_credits.values.principals import parse_principal

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    reload_id: str
    team_id: str
    principal: str


class ReloadQueue:
    def __init__(self, client: "SQSClient", queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url

    def send(self, request: ReloadRequest) -> None:
        """Send a request. The queue drops a repeat within five minutes, the saga a later one."""
        body = _Body(
            reload_id=request.reload_id,
            team_id=request.team_id,
            principal=str(request.principal),
        )
        self._client.send_message(
            QueueUrl=self._queue_url,
            MessageBody=body.model_dump_json(),
            MessageGroupId=request.team_id,
            # Hashed, because a deduplication id has at most 128 characters.
            MessageDeduplicationId=hashlib.sha256(request.reload_id.encode()).hexdigest(),
        )

    def return_in(self, receipt_handle: str, seconds: int) -> None:
        """Deliver a message again after this many seconds, instead of the queue's own timeout."""
        self._client.change_message_visibility(
            QueueUrl=self._queue_url, ReceiptHandle=receipt_handle, VisibilityTimeout=seconds
        )


def read_request(body: str) -> ReloadRequest:
    """Read a message's body; raises ValidationError if `send` did not write it."""
    request = _Body.model_validate_json(body)
    return ReloadRequest(request.reload_id, request.team_id, parse_principal(request.principal))
