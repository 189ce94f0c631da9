"""Recording the error of a model provider in a run: as an observation, not as an entry.

No credits move. An error counts once, however often it is reported: see `ModelProviderError.key`.
"""

import threading
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from agent_credits.billing.teams import Billing
from agent_credits.events.agent_runs import ModelProviderErrorReported
from agent_credits.notices.rows import ObservationRows

if TYPE_CHECKING:
    # Models of rare rows, which a cold start of the debit path does without.
    from agent_credits.notices.observations import ModelProviderError

# How many recorded errors a worker remembers. A busy model provider rejects calls of many runs many
# times an hour, and without this all but the first would be a failing write.
KNOWN_MAX = 1_000


class ReportedModelProviderError(Struct, frozen=True):
    """The result of one event; `is_new` if its error was not recorded before."""

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
    """Records errors, and remembers which ones this worker has recorded. Threads may share one."""

    def __init__(self, rows: ObservationRows) -> None:
        self._rows = rows
        self._changing = threading.Lock()
        self._known: dict[str, None] = {}

    def record(self, error: "ModelProviderError", now: datetime) -> bool:
        """Record the error once; return whether it is new. Raises what `rows` raises."""
        if error.key in self._known:
            return False
        is_new = self._rows.put_observation(error, now)
        with self._changing:
            if len(self._known) >= KNOWN_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[error.key] = None
        return is_new


def model_provider_error_of(
    event: ModelProviderErrorReported, billing: Billing
) -> "ModelProviderError":
    """Return the error to record; it names the run's payer, although nothing is debited."""
    # Imported here, so that only a worker with such an event loads the models and the table.
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
