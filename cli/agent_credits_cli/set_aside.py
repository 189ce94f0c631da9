"""The changes that could not be announced: reading, replaying and removing them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from pydantic import AwareDatetime, BaseModel, Field, Json, ValidationError

from agent_credits.aws.announcer import Record, Replay
from agent_credits.aws.set_aside import batch_text
from agent_credits_cli.errors import CommandError
from agent_credits_cli.target import Target

OBJECTS_MAX: Final = 100_000


class _RequestContext(BaseModel):
    condition: str


class _ResponseContext(BaseModel):
    function_error: str = Field("", alias="functionError")


class _Batch(BaseModel):
    records: list[Record] = Field(alias="Records", min_length=1)


class _Document(BaseModel):
    """The members of Lambda's invocation record that are shown or replayed."""

    timestamp: AwareDatetime
    request: _RequestContext = Field(alias="requestContext")
    # Absent where Lambda never invoked the function: the records became too old first.
    response: _ResponseContext = Field(_ResponseContext(), alias="responseContext")
    payload: Json[_Batch]


@dataclass(frozen=True, slots=True)
class SetAside:
    """One object of the bucket: a record that `announce` set aside, or a batch that Lambda did."""

    id: str
    set_aside_at: datetime
    condition: str
    reason: str
    records: Sequence[Record]
    document: Mapping[str, Any]


def row_of(record: Record) -> str:
    """Return the key of the row that changed."""
    return str(record["dynamodb"]["Keys"]["pk"]["S"])


def ids_of(target: Target) -> list[str]:
    """Return the ids of what was set aside, oldest first."""
    pages = target.s3.get_paginator("list_objects_v2").paginate(
        Bucket=target.outputs.announce_failures_bucket_name,
        PaginationConfig={"MaxItems": OBJECTS_MAX},
    )
    listed = [found for page in pages for found in page.get("Contents", [])]
    listed.sort(key=lambda found: (found["LastModified"], found["Key"]))
    return [found["Key"] for found in listed]


def read(target: Target, key: str) -> SetAside:
    try:
        body = target.s3.get_object(Bucket=target.outputs.announce_failures_bucket_name, Key=key)[
            "Body"
        ].read()
    except target.s3.exceptions.NoSuchKey:
        raise CommandError(
            f"nothing is set aside under {key}; `agent-credits announcements list` prints the ids"
        ) from None
    try:
        document = _Document.model_validate_json(body)
    except ValidationError as error:
        places = {".".join(map(str, problem["loc"])) for problem in error.errors()}
        raise CommandError(
            f"{key} in the bucket {target.outputs.announce_failures_bucket_name} is no record that"
            f" was set aside ({', '.join(sorted(places))}); remove it from the bucket"
        ) from None
    return SetAside(
        id=key,
        set_aside_at=document.timestamp,
        condition=document.request.condition,
        reason=document.response.function_error,
        records=document.payload.records,
        document=json.loads(body),
    )


def keep_only(target: Target, failure: SetAside, records: Sequence[Record]) -> None:
    """Remove from the object the records that were announced, and with the last one the object."""
    bucket = target.outputs.announce_failures_bucket_name
    if not records:
        target.s3.delete_object(Bucket=bucket, Key=failure.id)
    elif len(records) < len(failure.records):
        document = {**failure.document, "payload": batch_text(records)}
        target.s3.put_object(
            Bucket=bucket,
            Key=failure.id,
            Body=json.dumps(document).encode(),
            ContentType="application/json",
        )


def replay(target: Target, record: Record) -> Replay:
    """Let the deployed function announce a record, by the code and the settings that it has now."""
    response = target.functions.invoke(
        FunctionName=target.outputs.announce_function_name,
        Payload=json.dumps({"replay": record}).encode(),
    )
    answer = response["Payload"].read()
    if response.get("FunctionError"):
        # It crashed or ran out of time, and Lambda answers in its place.
        error = json.loads(answer)
        reason = f"{error.get('errorType', 'Unhandled')}: {error.get('errorMessage', '')}"
        return Replay("not_announceable", reason=reason)
    return msgspec.json.decode(answer, type=Replay)
