"""What can be done, and by whom, about each refusal of a reload."""

from typing import assert_never

from agent_credits.spending import Refused


def reload_fix(cause: Refused, team_id: str) -> list[str]:
    match cause:
        case "auto_reload_off":
            return [f"An admin of team {team_id}: turn auto-reload on, or purchase add-on credits."]
        case "spend_cap_reached":
            return [
                f"An admin of team {team_id}: raise the spend cap; reloads go on at once.",
                "Or wait: spending starts anew with the next calendar month.",
            ]
        case "payment_declined":
            return [
                (
                    f"An admin of team {team_id}: check the payment method; after three declines "
                    "in a row it is not tried again until it changes."
                )
            ]
        case "payment_method_missing":
            return [f"An admin of team {team_id}: add a payment method."]
        case "suspended":
            return [
                (
                    f"An admin of team {team_id}: change the payment method; the present one was "
                    "declined three times in a row and is not tried again."
                )
            ]
        case "too_many_reloads":
            return [
                (
                    f"An admin of team {team_id}: look for a run that loops. If the usage is "
                    "right, choose a larger pack or allow more reloads in the window."
                )
            ]
        case "payment_unavailable":
            return [
                (
                    "The payment provider did not answer in time. A payment that succeeds late "
                    "still becomes credits; it is not charged twice."
                )
            ]
        case _:
            assert_never(cause)
