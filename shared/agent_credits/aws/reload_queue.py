"""The queue of reload requests: FIFO, one group per team, and one for each reload followed up."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from agent_credits.ledger.reloads import ReloadRequest, ask_again_seconds
from agent_credits.values.principals import parse_principal

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    reload_id: str
    team_id: str
    principal: str
    follows_up: bool = False


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
            follows_up=request.follows_up,
        )
        self._client.send_message(
            QueueUrl=self._queue_url,
            MessageBody=body.model_dump_json(),
            MessageGroupId=_hashed(request.reload_id) if request.follows_up else request.team_id,
            MessageDeduplicationId=_hashed(f"{request.reload_id} {request.follows_up}"),
        )

    def ask_again(self, record: Mapping[str, Any], request: ReloadRequest) -> None:
        """Deliver the message again when it is time to ask, not after the queue's own timeout."""
        receives = int(record["attributes"]["ApproximateReceiveCount"])
        self._client.change_message_visibility(
            QueueUrl=self._queue_url,
            ReceiptHandle=record["receiptHandle"],
            VisibilityTimeout=ask_again_seconds(request, receives),
        )


def read_request(body: str) -> ReloadRequest:
    """Read a message's body; raises ValidationError if `send` did not write it."""
    request = _Body.model_validate_json(body)
    return ReloadRequest(
        request.reload_id,
        request.team_id,
        parse_principal(request.principal),
        request.follows_up,
    )


def _hashed(text: str) -> str:
    # SQS takes at most 128 characters here, and a reload's id may have more.
    return hashlib.sha256(text.encode()).hexdigest()
