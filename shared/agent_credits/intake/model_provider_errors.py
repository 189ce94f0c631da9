"""Recording that a model provider refused a call of a run: an observation, and no entry.

No credits move. A refusal counts once, whoever reports it again: see `ModelProviderError.key`.
"""

from datetime import datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from agent_credits.billing.teams import Billing
from agent_credits.events.agent_runs import ModelProviderErrorReported
from agent_credits.notices.rows import ObservationRows

if TYPE_CHECKING:
    # Models of rare rows, which a cold start of the debit path does without.
    from agent_credits.notices.observations import ModelProviderError

# What a worker remembers to be recorded: a busy provider refuses a whole fleet, many times an hour,
# and all but the first of that would be a write that fails.
KNOWN_MAX = 1_000


class ReportedModelProviderError(Struct, frozen=True):
    """What came of one event; `is_new` if its refusal was not recorded before."""

    message_id: str
    error: "ModelProviderError"
    is_new: bool

    @property
    def log_fields(self) -> dict[str, str | bool]:
        return {
            "message_id": self.message_id,
            "event_id": self.error.event_id,
            "run_id": self.error.run_id,
            "principal": str(self.error.principal),
            "provider": self.error.provider,
            "classification": self.error.classification,
            "is_new": self.is_new,
        }


class ModelProviderErrors:
    """One worker's way to record refusals."""

    def __init__(self, rows: ObservationRows) -> None:
        self._rows = rows
        self._known: dict[str, None] = {}

    def record(self, error: "ModelProviderError", now: datetime) -> bool:
        """Record it unless it is; tell whether it is new. Raises what `rows` raises."""
        if error.key in self._known:
            return False
        is_new = self._rows.put_observation(error, now)
        if len(self._known) >= KNOWN_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[error.key] = None
        return is_new


def model_provider_error_of(
    event: ModelProviderErrorReported, billing: Billing
) -> "ModelProviderError":
    """Return what is to be recorded; it names who is billed for the run, though this is free."""
    # Here and not above, because only who meets such an event should pay for the models and for
    # reading the table.
    from agent_credits.events.model_provider_table import classify
    from agent_credits.notices.observations import ModelProviderError

    return ModelProviderError(
        principal=billing.principal,
        team_id=event.data.team_id,
        project_id=event.data.project_id,
        run_id=event.subject,
        source=event.source,
        event_id=event.id,
        time=event.time,
        traceparent=event.traceparent,
        provider=event.data.provider,
        model=event.data.model,
        answer=event.data.error,
        classification=classify(event.data.provider, event.data.error),
    )
