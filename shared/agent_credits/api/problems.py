"""RFC 9457 problem documents: every error that the API answers with, each type in one table."""

from collections.abc import Mapping
from typing import Any, Final, Self

from msgspec import Struct, field

from agent_credits.events.agent_runs import RejectionCode
from agent_credits.notices.problem import PROBLEM_TYPE, insufficient_credits_problem
from agent_credits.values.errors import AgentCreditsError

# Seconds after which a call that could not be decided is worth making again.
RETRY_AFTER_SECONDS: Final = 1


class ProblemType(Struct, frozen=True):
    """`is_retryable`: the very same request may succeed later."""

    status: int
    title: str
    is_retryable: bool = False


INVALID: Final = 422
CONFLICT: Final = 409

REJECTIONS: Final[Mapping[RejectionCode, ProblemType]] = {
    "malformed": ProblemType(INVALID, "The request does not have the form that is documented."),
    "unknown_team": ProblemType(INVALID, "The team does not exist."),
    "unknown_user": ProblemType(INVALID, "The user is not a member of the team."),
    "from_the_future": ProblemType(INVALID, "The time is in the future."),
    "conflicting": ProblemType(CONFLICT, "Another request was recorded under this ID."),
    "no_estimate": ProblemType(INVALID, "A reservation needs an estimate of its credits."),
    "already_reserved": ProblemType(CONFLICT, "The run already holds a reservation."),
    "no_reservation": ProblemType(404, "The run holds no reservation."),
    "reservation_ended": ProblemType(CONFLICT, "The reservation has ended or expired."),
    "run_ended": ProblemType(CONFLICT, "The run has ended, and its reservation with it."),
    "unknown_parent": ProblemType(CONFLICT, "The parent run holds no reservation."),
    "parent_billed_elsewhere": ProblemType(INVALID, "The parent run is billed to another account."),
    "circular_parents": ProblemType(INVALID, "A run cannot be its own parent."),
    "tree_too_deep": ProblemType(CONFLICT, "The tree of runs is too deep."),
    "too_many_children": ProblemType(CONFLICT, "The parent run has too many child runs."),
    "too_many_reservations": ProblemType(CONFLICT, "The account holds too many reservations."),
    # These two are of messages in the queue; a request has no signature.
    "unsigned": ProblemType(INVALID, "The message is not signed."),
    "bad_signature": ProblemType(INVALID, "The signature of the message is not valid."),
}

TYPES: Final[Mapping[str, ProblemType]] = {
    **{code: REJECTIONS[code] for code in REJECTIONS},
    "not_json": ProblemType(400, "The body is not JSON."),
    "invalid_request": ProblemType(INVALID, "A field of the request is missing or invalid."),
    "unauthenticated": ProblemType(401, "The request has no valid credentials."),
    "insufficient_credits": ProblemType(403, insufficient_credits_problem("")["title"]),
    "forbidden": ProblemType(403, "The credentials do not allow this request."),
    "spend_cap_reached": ProblemType(403, "The team's spend cap leaves too little."),
    "purchase_declined": ProblemType(403, "The purchase was declined."),
    "not_found": ProblemType(404, "There is no such resource."),
    "team_not_found": ProblemType(404, "There is no such team."),
    "account_not_found": ProblemType(404, "There is no such account."),
    "run_not_found": ProblemType(404, "There is no such run."),
    "purchase_not_found": ProblemType(404, "There is no such purchase."),
    "purchase_under_way": ProblemType(
        CONFLICT, "Another payment for this account is under way.", is_retryable=True
    ),
    "out_of_order": ProblemType(
        CONFLICT, "An event that this one follows has not been recorded yet.", is_retryable=True
    ),
    "settings_changed": ProblemType(CONFLICT, "The settings have changed since they were read."),
    "unsupported_media_type": ProblemType(415, "The body's content type is not supported."),
    "internal_error": ProblemType(500, "The request failed because of an error in the service."),
    "undecided": ProblemType(
        503, "The request could not be decided now. Repeat it as it was.", is_retryable=True
    ),
}


class Problem(Struct, frozen=True):
    """An error before it is a document. `document` replaces what the type would say."""

    error: str
    type: ProblemType
    detail: str
    extensions: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Any] | None = None

    def to_document(self, problem_type_base_url: str, trace_id: str) -> dict[str, Any]:
        if self.document is not None:
            return {**self.document, "trace_id": trace_id}
        return {
            "type": type_uri(self.error, problem_type_base_url),
            "title": self.type.title,
            "status": self.type.status,
            "detail": self.detail,
            "error": self.error,
            "retryable": self.type.is_retryable,
            "trace_id": trace_id,
            **self.extensions,
        }


class Refused(AgentCreditsError):
    """The request is answered with a problem document. Do not catch it below the API's edge."""

    def __init__(
        self,
        error: str,
        detail: str,
        *,
        extensions: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{error}: {detail}")
        self.problem = Problem(
            error, TYPES[error], detail, dict(extensions or {}), dict(headers or {})
        )

    @classmethod
    def of(cls, problem: Problem) -> Self:
        refused = cls(problem.error, problem.detail)
        refused.problem = problem
        return refused


_FOLDER: Final = PROBLEM_TYPE.rsplit("/", 2)[0]


def type_uri(error: str, problem_type_base_url: str) -> str:
    """Return the URI of a problem's type, beside that of `insufficient_credits`."""
    return f"{problem_type_base_url.rstrip('/')}{_FOLDER}/{error.replace('_', '-')}/"


def invalid(field_name: str, complaint: str, *, where: str = "body") -> Refused:
    """Return the answer to a field that has the right form and a value that will not do."""
    error = {"field": field_name, "in": where, "complaint": complaint}
    return Refused("invalid_request", f"{field_name} {complaint}", extensions={"errors": [error]})


def undecided(reason: str) -> Refused:
    """Return the answer where a fault left the decision open. It is never a yes."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Refused("undecided", reason, headers=headers)
