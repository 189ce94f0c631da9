"""The RFC 9457 problem document of a run that failed for lack of credits.

The status is 403 and not 429, and it is not retryable: clients retry a 429, and every retry would
fail too.
"""

from typing import Any

PROBLEM_TYPE = "/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/"


def insufficient_credits_problem(problem_type_base_url: str) -> dict[str, Any]:
    """Return the document; a base URL makes its type absolute."""
    return {
        "type": f"{problem_type_base_url.rstrip('/')}{PROBLEM_TYPE}",
        "title": (
            "The principal billed for this run has no remaining credits. Purchase add-on credits "
            "or raise the team-wide spend cap to continue."
        ),
        "status": 403,
        "instance": "/api/v1/agent/tasks",
        "retryable": False,
    }
