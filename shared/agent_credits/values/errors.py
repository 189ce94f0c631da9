"""What can go wrong that a caller can act on. The expected is a value, not an error."""


class AgentCreditsError(Exception):
    """Base of every error of this package; catch it where one account must not disturb others."""


class RowsUnavailable(AgentCreditsError):
    """The rows could not be read or written now. Give the messages back and let SQS redeliver."""


class RowNotUnderstood(AgentCreditsError):
    """A row is not what this version writes. Deploy the version that wrote it, then redeliver."""


class QueueUnavailable(AgentCreditsError):
    """The queue did not answer. Go on: its messages come back by themselves, only later."""


class SecretUnavailable(AgentCreditsError):
    """The secret cannot be read now, or nothing useful was put there yet. Ask again later."""


class Contended(AgentCreditsError):
    """Other writers won every attempt. Give the messages back; nothing of it was committed."""

    def __init__(self, message: str, races_lost: int) -> None:
        super().__init__(message)
        self.races_lost = races_lost


class OutOfTime(AgentCreditsError):
    """The function has too little time left to begin this. Give the messages back."""


class AccountMissing(AgentCreditsError):
    """The principal has no account. Declare it with `agent-credits apply`, then redeliver."""


class TeamMissing(AgentCreditsError):
    """There is no such team. Declare it with `agent-credits apply`."""


class PolicyMissing(AgentCreditsError):
    """A team names a policy version that is not there. Apply the policy, then redeliver."""


class AccountTooLarge(AgentCreditsError):
    """One change would push the row past its ceiling. Merge or let expire some grants first."""


class InvariantViolated(AgentCreditsError):
    """A bug, caught before anything was committed. Page whoever owns the code."""


def require(condition: bool, invariant: str) -> None:
    """Raise `InvariantViolated` unless the condition holds; unlike `assert`, in every build."""
    if not condition:
        raise InvariantViolated(invariant)
