"""The HTTP API: its problem types, which role may make which call, and its OpenAPI document."""

import importlib.metadata
import json
from http import HTTPStatus
from typing import Any, get_args

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from pydantic import TypeAdapter

from agent_credits.api.callers import MAY, Role
from agent_credits.api.events import BATCH, JSON, STRUCTURED, BatchAnswer
from agent_credits.api.problems import TYPES, type_uri
from agent_credits.aws.http_api import HttpApi
from agent_credits.events.agent_runs import EVENTS_PER_MESSAGE_MAX
from tools.blocks import table
from tools.reference_blocks import events

# A request has no signature, and what is malformed names its field.
NEVER_ANSWERED = {"unsigned", "bad_signature"}


def problems() -> str:
    """Return every type of problem, in the order of its status."""
    answered = {error: kind for error, kind in TYPES.items() if error not in NEVER_ANSWERED}
    rows = [
        (
            str(kind.status),
            f"`{error}`",
            kind.title,
            "yes" if kind.is_retryable else "no",
            f"`{type_uri(error, '')}`",
        )
        for error, kind in sorted(answered.items(), key=lambda item: (item[1].status, item[0]))
    ]
    return table((">status", "`error`", "`title`", "retryable", "`type`"), rows)


def roles() -> str:
    """Return which role may do what."""
    names = get_args(Role)
    rows = [
        (operation.replace("_", " "), *("yes" if name in may else "" for name in names))
        for operation, may in MAY.items()
    ]
    return table(("", *(f"`{name}`" for name in names)), rows)


# Statuses that any call may be answered with, and the others by what a call has.
ALWAYS = (401, 403, 404, 500, 503)
WITH_BODY = (400, 409, 415, 422)


def openapi() -> str:
    """Return the document that the API serves, made from its routes and models."""
    made: dict[str, Any] = json.loads(
        _routes().get_openapi_json_schema(
            title="Agent Credits",
            version=importlib.metadata.version("agent-credits"),
            openapi_version="3.1.0",
            description=(
                "Admission, balances and settings of agent runs that are paid with credits. "
                "Producers and operators sign requests with AWS Signature V4; people and agents "
                "send a bearer token to an API of their own, with the same calls."
            ),
        )
    )
    made.pop("servers", None)
    schemas = made["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError", "ResponseValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = PROBLEM
    made["components"]["securitySchemes"] = {
        "sigv4": {
            "type": "apiKey",
            "name": "Authorization",
            "in": "header",
            "description": "AWS Signature V4 of the service execute-api, at ProducersApiUrl.",
            "x-amazon-apigateway-authtype": "awsSigv4",
        },
        "token": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A token of the platform's issuer, at PeopleApiUrl.",
        },
    }
    made["security"] = [{"sigv4": []}, {"token": []}]
    for operations in made["paths"].values():
        for operation in operations.values():
            _with_problems(operation)
    _with_events(made)
    made["paths"]["/v1/openapi.json"] = {"get": DOCUMENT}
    made["paths"] = dict(sorted(made["paths"].items()))
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _routes() -> APIGatewayHttpResolver:
    """Return the routes; making them needs none of what they are served with."""
    nothing: Any = None
    return HttpApi(
        nothing, nothing, nothing, nothing, nothing, nothing, doors={}, problem_type_base_url=""
    ).resolver


def _with_problems(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    # What the library says of its own errors, which are answered as problems.
    responses.pop("422", None)
    takes = "requestBody" in operation or operation["operationId"].startswith("record_events")
    has_parameters = bool(operation.get("parameters"))
    statuses = {*ALWAYS, *(WITH_BODY if takes else ()), *((422,) if has_parameters else ())}
    for status in sorted(statuses):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
        }
    responses["429"] = {
        "description": "Too Many Requests: the gateway's throttle, not a problem document.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }


def _with_events(made: dict[str, Any]) -> None:
    """Describe the bodies of `POST /v1/events`, which the events' own models check."""
    event = json.loads(events.event_schema())
    definitions = event.pop("$defs", {})
    for name in ("$schema", "$id"):
        event.pop(name, None)
    text = json.dumps({"AgentRunEvent": event, **definitions})
    schemas = json.loads(text.replace("#/$defs/", "#/components/schemas/"))
    made["components"]["schemas"] |= schemas
    one = {"$ref": "#/components/schemas/AgentRunEvent"}
    batch = {"type": "array", "items": one, "minItems": 1, "maxItems": EVENTS_PER_MESSAGE_MAX}
    operation = made["paths"]["/v1/events"]["post"]
    operation["requestBody"] = {
        "required": True,
        "content": {
            STRUCTURED: {"schema": one},
            BATCH: {"schema": batch},
            JSON: {"schema": {"anyOf": [one, batch]}},
        },
    }
    answers = operation["responses"]["200"]["content"]["application/json"]
    answers["schema"] = {"anyOf": [answers["schema"], {"$ref": "#/components/schemas/BatchAnswer"}]}
    batch_answer = TypeAdapter(BatchAnswer).json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    batch_answer.pop("$defs", None)
    made["components"]["schemas"]["BatchAnswer"] = batch_answer


PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457. Some types have more members.",
    "type": "object",
    "required": ["type", "title", "status", "retryable", "error", "trace_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "error": {"type": "string", "enum": sorted(TYPES)},
        "retryable": {"type": "boolean"},
        "trace_id": {"type": "string"},
    },
}
DOCUMENT: dict[str, Any] = {
    "summary": "Read this document",
    "tags": ["document"],
    "operationId": "read_document",
    "security": [],
    "responses": {
        "200": {
            "description": "The OpenAPI document.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
}
