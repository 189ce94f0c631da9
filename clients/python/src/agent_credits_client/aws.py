"""What needs AWS's libraries (`agent-credits-client[aws]`): Signature V4, and usage through SQS."""

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final

import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError

from agent_credits_client.errors import NoAnswer, Refused
from agent_credits_client.messages import Message, Sign

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

SERVICE: Final = "execute-api"
SIGNATURE_ATTRIBUTE: Final = "signature"
_SIGNED_HEADERS: Final = ("host", "content-type", "idempotency-key")


class SigV4(httpx.Auth):
    """Signs requests for `ProducersApiUrl`.

    `credentials` are botocore's, such as `boto3.Session().get_credentials()`: they refresh
    themselves.
    """

    requires_request_body = True

    def __init__(self, credentials: Credentials, region: str) -> None:
        self._credentials = credentials
        self._region = region

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        # Only headers that no proxy changes.
        headers = {
            name: request.headers[name] for name in _SIGNED_HEADERS if name in request.headers
        }
        signed = AWSRequest(request.method, str(request.url), headers, data=request.content)
        SigV4Auth(self._credentials, SERVICE, self._region).add_auth(signed)
        for name, value in signed.headers.items():
            if name.lower() not in _SIGNED_HEADERS:
                request.headers[name] = value
        yield request


class SqsQueue:
    """Sends usage to the stack's `AgentRunsQueueUrl`.

    `client` is boto3's; give it timeouts (`Config(connect_timeout=…, read_timeout=…)`). `sign`,
    such as `hmac_sha256(key_id, key)`, is for a stack that requires signed events.
    """

    def __init__(self, client: "SQSClient", queue_url: str, sign: Sign | None = None) -> None:
        self._client = client
        self._queue_url = queue_url
        self._sign = sign

    def send(self, messages: Sequence[Message]) -> Sequence[Message]:
        """As `Queue.send`."""
        entries = [_entry(n, message, self._sign) for n, message in enumerate(messages)]
        try:
            response = self._client.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
        except ClientError as fault:
            error = fault.response.get("Error", {})
            status = fault.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
            if status in (400, 401, 403, 404) and not _is_throttled(error.get("Code", "")):
                problem = {
                    "error": error.get("Code", "unknown"),
                    "detail": error.get("Message", ""),
                }
                raise Refused.of(status, problem) from fault
            raise NoAnswer(f"SQS: {fault}") from fault
        except BotoCoreError as fault:
            raise NoAnswer(f"SQS: {fault}") from fault
        failed = response.get("Failed", [])
        for entry in failed:
            if entry["SenderFault"] and not _is_throttled(entry["Code"]):
                problem = {"error": entry["Code"], "detail": entry.get("Message", "")}
                raise Refused.of(400, problem)
        return [messages[int(entry["Id"])] for entry in failed]


def _is_throttled(code: str) -> bool:
    return "Throttl" in code or code in ("RequestLimitExceeded", "ServiceUnavailable")


def _entry(
    number: int, message: Message, sign: Callable[[str], str] | None
) -> "SendMessageBatchRequestEntryTypeDef":
    entry: dict[str, Any] = {
        "Id": str(number),
        "MessageBody": message.body,
        "MessageGroupId": message.group,
    }
    if message.delay_seconds:
        entry["DelaySeconds"] = message.delay_seconds
    if sign is not None:
        value = {"DataType": "String", "StringValue": sign(message.body)}
        entry["MessageAttributes"] = {SIGNATURE_ATTRIBUTE: value}
    return entry  # type: ignore[return-value]
