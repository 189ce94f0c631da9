"""Each decline of a reload in words, and what can be done about it, by whom."""

from typing import assert_never

from agent_credits.ledger.reloads import DeclineCause


def decline_in_words(cause: DeclineCause) -> str:
    """Return why no reload helped, to stand behind a colon."""
    match cause:
        case "auto_reload_off":
            return "auto-reload is off"
        case "auto_reload_not_applicable":
            return "auto-reload buys credits that this run cannot draw"
        case "spend_cap_reached":
            return "the team's spend cap for this month is reached"
        case "payment_declined":
            return "the payment was declined"
        case "payment_method_missing":
            return "the team has no payment method"
        case "suspended":
            return "the payment method was declined three times in a row and is not tried again"
        case "too_many_reloads":
            return "there were too many reloads in a short time"
        case "payment_unavailable":
            return "the payment provider did not answer in time"
        case _:
            assert_never(cause)


def reload_fix(cause: DeclineCause, team_id: str) -> list[str]:
    match cause:
        case "auto_reload_off":
            return [f"An admin of team {team_id}: turn auto-reload on, or purchase add-on credits."]
        case "auto_reload_not_applicable":
            return [
                (
                    f"An admin of team {team_id}: set auto-reload to a pool that this run draws "
                    "and to a pack that the team's billing policy sells in the team's currency. "
                    "Settings that changed a moment ago may apply within twelve minutes."
                )
            ]
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
