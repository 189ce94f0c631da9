"""Each decline of a reload in words, and what can be done about it, by whom."""

from typing import assert_never

from agent_credits.ledger.reloads import DeclineCause


def decline_in_words(cause: DeclineCause) -> str:
    """Return why there was no reload, to be read behind a colon."""
    match cause:
        case "auto_reload_off":
            return "auto-reload is off"
        case "auto_reload_not_applicable":
            return (
                "auto-reload is set to a pool that this run does not draw, or to a pack that is "
                "not sold"
            )
        case "spend_cap_reached":
            return "the team has reached its spend cap for this month"
        case "payment_declined":
            return "the payment was declined"
        case "payment_method_missing":
            return "the team has no payment method"
        case "suspended":
            return "the payment method was declined three times in a row and is no longer charged"
        case "too_many_reloads":
            return "there were too many reloads in a short time"
        case "payment_unavailable":
            return "the payment provider did not answer in time"
        case _:
            assert_never(cause)


def reload_fix(cause: DeclineCause, team_id: str) -> list[str]:
    """Return what makes reloads possible again, by whom."""
    admin = f"An admin of team {team_id}"
    match cause:
        case "auto_reload_off":
            return [
                (
                    f"{admin}: turn on auto-reload, subject to the team's spend cap, or purchase "
                    "credits by hand."
                )
            ]
        case "auto_reload_not_applicable":
            return [
                (
                    f"{admin}: set auto-reload to a pool that this run draws and to a pack that "
                    "the team's billing policy sells in the team's currency. Settings that "
                    "changed a moment ago may need twelve minutes to apply."
                )
            ]
        case "spend_cap_reached":
            return [
                f"{admin}: raise the spend cap; reloads continue at once.",
                "Or wait until next month: the spend cap applies to each calendar month.",
            ]
        case "payment_declined":
            return [
                (
                    f"{admin}: check the payment method. After three declines in a row it is not "
                    "charged again until it is changed."
                )
            ]
        case "payment_method_missing":
            return [f"{admin}: add a payment method."]
        case "suspended":
            return [
                (
                    f"{admin}: change the payment method. The current one was declined three times "
                    "in a row and is no longer charged."
                )
            ]
        case "too_many_reloads":
            return [
                (
                    f"{admin}: look for a run that loops. If the usage is correct, choose a larger "
                    "pack or allow more reloads in the window."
                )
            ]
        case "payment_unavailable":
            return [
                (
                    f"{admin}: wait, or purchase credits by hand. If the late payment succeeds, "
                    "its credits are still added; it is not charged twice."
                )
            ]
        case _:
            assert_never(cause)
