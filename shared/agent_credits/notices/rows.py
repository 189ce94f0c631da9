"""The port to observations: what is to be announced though no account changed."""

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # Models of rare rows, which a cold start of the debit path does without.
    from agent_credits.notices.observations import Observation


class ObservationRows(Protocol):
    """The rows of what is to be announced though no account changed."""

    def put_observation(self, observation: "Observation", now: datetime) -> bool:
        """Put it unless it is there, and tell whether it is new.

        The change stream shows a new one to `announce`. Raises `RowsUnavailable` on a fault; a put
        whose answer was lost may be repeated.
        """
        ...
