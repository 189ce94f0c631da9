"""What ends a history: an invariant that does not hold."""


class Violation(AssertionError):
    """An invariant does not hold. Nothing may catch this but the end of the history."""


def check(holds: object, invariant: str) -> None:
    if not holds:
        raise Violation(invariant)
