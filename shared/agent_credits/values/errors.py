"""The errors that a caller can act on. An outcome that the business expects is a returned value."""


class AgentCreditsError(Exception):
    """Base of every error of this package; catch it where one account must not affect others."""


class RowsUnavailable(AgentCreditsError):
    """The rows cannot be read or written now. Give the messages back, and SQS redelivers them."""


class RowNotUnderstood(AgentCreditsError):
    """This version cannot read a row. Deploy the version that wrote it, then redeliver."""


class NotAnnounceable(AgentCreditsError):
    """This version cannot announce a record of the change stream. Set it aside, and continue."""


class QueueUnavailable(AgentCreditsError):
    """The queue did not answer. Continue: SQS redelivers its messages, only later."""


class SecretUnavailable(AgentCreditsError):
    """The secret cannot be read now, or holds no usable value yet. Try again later."""


class Contended(AgentCreditsError):
    """Other writers won every attempt. Nothing was committed. Give the messages back."""

    def __init__(self, message: str, races_lost: int) -> None:
        super().__init__(message)
        self.races_lost = races_lost


class MoreRowsNeeded(AgentCreditsError):
    """The changes move rows beside the account's own: commit them with `commit_together`."""


class OutOfTime(AgentCreditsError):
    """The function has too little time left to begin this. Give the messages back."""


class AccountMissing(AgentCreditsError):
    """The principal has no account. Declare it with `agent-credits apply`, then redeliver."""


class TeamMissing(AgentCreditsError):
    """The team does not exist. Declare it with `agent-credits apply`."""


class PolicyMissing(AgentCreditsError):
    """A team names a policy version that does not exist. Apply the policy, then redeliver."""


class AccountTooLarge(AgentCreditsError):
    """One change would make the row too large. Merge some grants, or let some expire, first."""


class InvariantViolated(AgentCreditsError):
    """A bug, found before anything was committed. Page the owner of the code."""


def require(condition: bool, invariant: str) -> None:
    """Raise `InvariantViolated` unless the condition holds. Unlike `assert`, this always runs."""
    if not condition:
        raise InvariantViolated(invariant)
