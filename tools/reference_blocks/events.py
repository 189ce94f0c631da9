"""The events that come in: their JSON Schema, and why a message is rejected."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, get_args, get_type_hints

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from agent_credits.events.agent_runs import AgentRunEvent, ExtendedData, Rejection, RequestedData
from agent_credits.events.model_provider_errors import ModelProviderAnswer
from agent_credits.ledger.entries import Outcome
from agent_credits.values.credits import CREDITS_MAX, parse_credits, parse_usage
from tools.blocks import table

# What `parse_usage` takes: zero or more, at most CREDITS_MAX, at most 6 places.
_DIGITS: Final = len(str(CREDITS_MAX)) - 1
CREDITS: Final[JsonSchemaValue] = {
    "description": "Credits: a decimal string with at most 6 places, or an integer; never a float.",
    "oneOf": [
        {
            "type": "string",
            "pattern": (
                rf"^((0|[1-9][0-9]{{0,{_DIGITS - 1}}})(\.[0-9]{{1,6}})?"
                rf"|{CREDITS_MAX}(\.0{{1,6}})?)$"
            ),
        },
        {"type": "integer", "minimum": 0, "maximum": CREDITS_MAX},
    ],
}
# What `parse_credits` takes: the same without zero.
NO_CREDITS: Final[JsonSchemaValue] = {
    "anyOf": [{"const": 0}, {"type": "string", "pattern": r"^0(\.0{1,6})?$"}]
}
SOME_CREDITS: Final[JsonSchemaValue] = {**CREDITS, "not": NO_CREDITS}
TIME: Final[JsonSchemaValue] = {
    "description": "RFC 3339 with an offset, in the years 2000 to 2200.",
    "type": "string",
    "format": "date-time",
    "pattern": (
        r"^2([0-1][0-9]{2}|200)-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}"
        r"(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
    ),
}
# By the name of the function that reads a value; pydantic alone would describe what it returns.
_READ_BY: Final[Mapping[str, JsonSchemaValue]] = {
    parse_usage.__name__: CREDITS,
    parse_credits.__name__: SOME_CREDITS,
    "_rfc3339": TIME,
}

REJECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "unsigned": (
        "The stack requires signed events, and the message has no signature.",
        "Sign it and send it again.",
    ),
    "bad_signature": (
        "The signature is malformed, made with an unknown key, or of another body.",
        "Sign the bytes that you send, with a key of the secret.",
    ),
    "malformed": (
        "The body is not JSON, or an event breaks the schema.",
        "Correct the event; the reason names the field.",
    ),
    "unknown_team": (
        "`team_id` names no team.",
        "Apply the team, then redrive the message.",
    ),
    "unknown_user": (
        (
            "The user is no member of the team, and was none when the run began (without"
            " `data.started_at`: at the event's `time`); or the payer has no account."
        ),
        "Apply the member, then redrive the message.",
    ),
    "from_the_future": (
        "`time` is more than five minutes ahead.",
        "Correct the producer's clock; redrive the message once its time has come.",
    ),
    "conflicting": (
        "The same identity is recorded with another payload.",
        "Give every event an id of its own. What was recorded first stands.",
    ),
    "no_estimate": (
        "A request that reserves has no `data.credits`, or 0, and the policy has no default.",
        "Send an estimate, or set `default_estimate` in the policy's rule.",
    ),
    "already_reserved": (
        "A request of a run that holds a reservation.",
        "Send `agent_run.extended` to ask for more.",
    ),
    "no_reservation": (
        "An extension or a release of a run that never reserved, more than a minute after `time`.",
        "Request the run with a reservation first, or leave the event out.",
    ),
    "reservation_ended": (
        (
            "An extension or a release of a run whose reservation expired or was closed, or a child"
            " of such a parent."
        ),
        "What the run uses is recorded all the same. To hold credits, request it once more.",
    ),
    "run_ended": (
        "A reservation for, or a second end of, a run that finished or was released.",
        "No action is needed, unless the run is still at work: then give it a new id.",
    ),
    "unknown_parent": (
        "`parent_run_id` names a run without a reservation, more than a minute after `time`.",
        "Request the parent with a reservation before its children.",
    ),
    "parent_billed_elsewhere": (
        "The parent's reservation is on another account.",
        "Start the child with the trigger of its parent, or request it without a parent.",
    ),
    "circular_parents": (
        "`parent_run_id` names the run itself, or a run below it.",
        "Name the run that started this one.",
    ),
    "tree_too_deep": (
        "The tree of runs would be more than eight deep.",
        "Let the run draw its parent's reservation: send its usage as the parent's.",
    ),
    "too_many_children": (
        "A hundred runs below the parent hold a reservation.",
        "Wait until some of them finish, or let children share one run.",
    ),
    "too_many_reservations": (
        (
            "The account holds 500 live reservations, or that of the team does whose pool the run"
            " may draw."
        ),
        "Wait until some runs finish; `agent-credits reservations` lists them.",
    ),
    "held_for_a_payer": (
        "A release names what a team's account holds of its pool for the run of a member.",
        "Release the run on the account that pays for it.",
    ),
}

OUTCOMES: Final[Mapping[str, str]] = {
    "accepted": (
        "A request that the pools can cover. It takes nothing, or puts its estimate aside."
    ),
    "extended": "A reservation got more credits, more time, or both.",
    "debited": "Usage that was drawn in full; usage of 0 credits draws nothing.",
    "insufficient": (
        "The pools held too little, or the run may draw no more. Usage drew what there was, and the"
        " rest is the shortfall. The first such event fails the run."
    ),
    "waived": (
        "Usage of a run that had already ended with a platform error, for at least 24 hours after"
        " that. It takes nothing."
    ),
    "finished": "The end of a run. What its reservation still held went back.",
    "returned": (
        "The end of a run with a platform error. Its draws went back to their grants, but for those"
        " of a grant whose grace is over."
    ),
    "released": "The end of a reservation, by the platform or by an operator.",
    "reservations_expired": "The end of reservations whose time was over.",
    "granted": "Credits that were granted, purchased or reloaded.",
    "refilled": "The plan's credits of a new period.",
    "expired": "What a grant still held at its expiry.",
    "changed": "Another plan, from the next refill.",
    "reload_requested": "A reload was asked for; events wait for it.",
    "reload_declined": "A reload was declined; the entry names the cause.",
}


class _InputSchema(GenerateJsonSchema):
    """Describes what is sent, where pydantic would describe what it is turned into."""

    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        name = getattr(schema["function"]["function"], "__name__", "")
        return dict(_READ_BY[name]) if name in _READ_BY else super().function_before_schema(schema)

    def field_title_should_be_set(self, _schema: object) -> bool:
        """Leave out titles, which would only repeat the names of the fields."""
        return False


def event_schema() -> str:
    """Return the JSON Schema of one event as a document."""
    adapter: TypeAdapter[AgentRunEvent] = TypeAdapter(
        Annotated[AgentRunEvent, Field(discriminator="type")]
    )
    schema = adapter.json_schema(schema_generator=_InputSchema)
    for definition in schema["$defs"].values():
        # Computed when an event is read; an event that carries it is rejected.
        if "payload_hash" in definition["properties"]:
            del definition["properties"]["payload_hash"]
            definition["required"].remove("payload_hash")
    # Checks of a model as a whole, which pydantic does not describe.
    is_there: JsonSchemaValue = {"not": {"type": "null"}}
    schema["$defs"][ModelProviderAnswer.__name__]["anyOf"] = [
        {"required": [name], "properties": {name: is_there}}
        for name in ("status_code", "type", "code", "reason")
    ]
    schema["$defs"][ExtendedData.__name__]["anyOf"] = [
        {"required": [name], "properties": {name: is_there}} for name in ("credits", "ttl_seconds")
    ]
    schema["$defs"][RequestedData.__name__]["not"] = {
        "anyOf": [
            {"required": ["reserve", other], "properties": {"reserve": {"const": mode}, other: bad}}
            for mode, other, bad in (
                ("none", "parent_run_id", is_there),
                ("none", "ttl_seconds", is_there),
                ("estimate", "credits", NO_CREDITS),
            )
        ]
    }
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Agent-run event",
        "description": "One CloudEvent 1.0 for Agent Credits, in structured mode.",
        **schema,
    }
    return json.dumps(document, indent=2) + "\n"


def rejections() -> str:
    codes = get_args(get_type_hints(Rejection)["code"])
    rows = [(f"`{code}`", *REJECTIONS[code]) for code in codes]
    return table(("code", "when", "what to do"), rows)


def outcomes() -> str:
    rows = [(f"`{outcome}`", OUTCOMES[outcome]) for outcome in get_args(Outcome)]
    return table(("outcome", "meaning"), rows)
