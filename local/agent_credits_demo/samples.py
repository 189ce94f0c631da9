"""`agent-credits-demo samples`: the sample world on a fresh stack, and the results."""

import textwrap
import time
from dataclasses import asdict
from itertools import groupby
from typing import Any, Final

import typer

from agent_credits.billing.teams import Team
from agent_credits.notices.insufficient_credits import insufficient_credits
from agent_credits.notices.notice import Notice
from agent_credits.notices.slack_messages import LOOKS
from agent_credits.values.display import amount_text, count_text, money_text
from agent_credits_cli.hints import typed
from agent_credits_cli.holdings import holdings_to_json
from agent_credits_cli.slack_view import slack_view
from agent_credits_cli.tables import AsJson, err, out, print_json, table
from agent_credits_demo.sample_checks import NOTHING
from agent_credits_demo.sample_run import SampleRun, run_samples
from agent_credits_local import embedded_stack
from agent_credits_local.checkout import this_checkout
from agent_credits_local.options import Port, state_folder_of
from agent_credits_local.target import connect_to_local

FAILED_EXIT_STATUS: Final = 1
WORLD_FILE: Final = "samplesconfig.toml"

# The subjects of checks other than events and accounts.
ABOUT: Final = {"dead letters", "notices", "left in the queue", "Slack"}

TO_TRY: Final = (
    "agent-credits status",
    "agent-credits account user:ana",
    "agent-credits explain run-exhaustion",
    "agent-credits ledger user:eli",
    "agent-credits reservations team:harbor",
    "agent-credits team orbit",
    "agent-credits dead-letters --body",
    "agent-credits notices test --channel slack",
    "agent-credits watch",
)


def samples(context: typer.Context, port: Port = None, as_json: AsJson = False) -> None:
    """Deploy to a fresh embedded stack, send the sample events, and show the results.

    The exit status is 0 only if every result is the one that samplesconfig.toml expects.
    """
    folder, checkout = state_folder_of(context), this_checkout()
    started_at = time.monotonic()
    embedded_stack.up(
        folder, checkout, port=port, on_any_port="make demo PORT=0", fresh=True, console=err()
    )
    run = run_samples(connect_to_local(folder), checkout.root / WORLD_FILE)
    seconds = time.monotonic() - started_at
    if as_json:
        print_json(_to_json(run, seconds))
    else:
        _show(run, seconds)
        out().print("The stack is still running. Commands to try; `make down` stops it:")
        for command in TO_TRY:
            out().print(f"  {typed(context, command)}", soft_wrap=True)
    if not run.is_as_expected:
        raise typer.Exit(FAILED_EXIT_STATUS)


def _show(run: SampleRun, seconds: float) -> None:
    _show_samples(run)
    _show_pools(run)
    _show_payments(run)
    _show_notices(run)
    _show_slack(run)
    out().print(f"verify: {run.verified}\n", soft_wrap=True)
    for finding in run.verified.findings:
        out().print(str(finding), soft_wrap=True)
    met = sum(check.is_met for check in run.checks)
    verdict = "All came as expected" if run.is_as_expected else "NOT all came as expected"
    out().print(f"{verdict}: {met} of {len(run.checks)} checks met in {seconds:.0f} s.")


def _show_samples(run: SampleRun) -> None:
    """Show each expectation beside what happened, unless nothing was expected and happened."""
    listing = table("sample", "expected", "actual", "")
    for name, grouped in groupby(run.checks, key=lambda check: check.sample):
        checks = [c for c in grouped if (c.expected, c.actual) != (NOTHING, NOTHING)]
        for number, check in enumerate(checks):
            listing.add_row(
                name if number == 0 else "",
                _phrase(check.what, check.expected, run),
                _phrase(check.what, check.actual, run),
                "ok" if check.is_met else "WRONG",
            )
    out().print(listing)


def _phrase(what: str, text: str, run: SampleRun) -> str:
    """Return the result of an event as it is, and any other result after its subject."""
    about = {str(principal) for principal in run.before} | ABOUT
    about |= {f"charges of {paid.team.team_id}" for paid in run.payments}
    return f"{what}: {text}" if what in about else text


def _show_pools(run: SampleRun) -> None:
    pools = table("account", "pool", ">before", ">after", ">reserved")
    for principal, before in run.before.items():
        after = {b.pool: b.available_microcredits for b in run.after[principal].balances}
        reserved = {b.pool: b.available_microcredits for b in run.after[principal].reserved}
        for balance in before.balances:
            left = after[balance.pool]
            if left != balance.available_microcredits:
                pools.add_row(
                    str(principal),
                    balance.pool,
                    amount_text(balance.available_microcredits),
                    amount_text(left),
                    amount_text(reserved[balance.pool]),
                )
    out().print(pools)


def _show_payments(run: SampleRun) -> None:
    """Show the spend of each team that pays by card, beside what the provider charged."""
    payments = table("team", ">spent", ">cap", ">charges", ">charged", "auto-reload")
    for paid in run.payments:
        team, currency = paid.team, _currency(run)
        payments.add_row(
            team.team_id,
            money_text(team.spending.spent_cents, currency),
            money_text(team.spend_cap_cents, currency),
            str(len(paid.charged_cents)),
            money_text(sum(paid.charged_cents), currency),
            _reload_state(run, team),
        )
    out().print(payments)


def _currency(run: SampleRun) -> str:
    return run.world.policy.packs[0].currency


def _reload_state(run: SampleRun, team: Team) -> str:
    """Return what blocks reloads: of the whole team, or else of its accounts."""
    method = team.payment
    if method is not None and team.spending.suspended_payment_method == method.name:
        return "suspended"
    held = (holdings.account.reload for holdings in run.after.values())
    own = [reload for reload in held if reload is not None and reload.team_id == team.team_id]
    return ", ".join(sorted({reload.cause or reload.state for reload in own})) or "able"


def _show_notices(run: SampleRun) -> None:
    out().print(f"Published: {count_text(len(run.notices), 'notice')}.")
    for published in run.notices:
        out().print(f"  {published.notice['type']}: {published.subject}", soft_wrap=True)
    email = email_of_first(run)
    if email is not None:
        out().print("\nThe e-mail of the first failed run:\n")
        text = f"Subject: {email.email_subject}\n\n{email.email_text}"
        out().print(textwrap.indent(text, "  | ", lambda _: True), soft_wrap=True)


def _show_slack(run: SampleRun) -> None:
    """Show one message of each severity as it looks in Slack."""
    first: dict[str, dict[str, Any]] = {}
    for message in run.slack_messages:
        first.setdefault(message["color"], message)
    shown = [first[look.colour] for look in LOOKS.values() if look.colour in first]
    out().print(
        f"Posted to the stand-in for Slack: {count_text(len(run.slack_messages), 'message')}."
        " One of each severity, as Slack shows it:\n"
    )
    for message in shown:
        out().print(slack_view(message), "")


def email_of_first(run: SampleRun) -> Notice | None:
    """Return the first notice with its e-mail, which the embedded stack accepts but does not send.

    It is derived again from the entry that failed the run, as the function derives it.
    """
    for published in run.notices:
        receipt = run.failures.get(published.notice["subject"])
        if receipt is not None:
            account = run.after[receipt.principal].account
            return insufficient_credits(account, receipt.entry, problem_type_base_url="")
    return None


def _to_json(run: SampleRun, seconds: float) -> dict[str, Any]:
    return {
        "as_expected": run.is_as_expected,
        "seconds": round(seconds, 1),
        "checks": [asdict(check) | {"is_met": check.is_met} for check in run.checks],
        "accounts": [
            {"before": holdings_to_json(before), "after": holdings_to_json(run.after[principal])}
            for principal, before in run.before.items()
        ],
        "payments": [
            {
                "team_id": paid.team.team_id,
                "spent_cents": paid.team.spending.spent_cents,
                "spend_cap_cents": paid.team.spend_cap_cents,
                "charged_cents": list(paid.charged_cents),
                "auto_reload": _reload_state(run, paid.team),
            }
            for paid in run.payments
        ],
        "notices": [published.notice for published in run.notices],
        "slack_messages": list(run.slack_messages),
        "verify": run.verified.to_json(),
    }
