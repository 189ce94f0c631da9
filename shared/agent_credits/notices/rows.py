"""The port to the rows of observations."""

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # These rows are rare, so a cold start of the debit path does not load their models.
    from agent_credits.notices.observations import Observation


class ObservationRows(Protocol):
    """The rows of what is announced although no account changed."""

    def put_observation(self, observation: "Observation", now: datetime) -> bool:
        """Put an observation unless it exists, and return whether it is new.

        `announce` gets a new one from the change stream. Raises `RowsUnavailable` on a fault; a put
        whose answer was lost may be repeated.
        """
        ...
