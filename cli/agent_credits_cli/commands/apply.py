"""`agent-credits apply`: brings a stack to what a file declares, and shows what that changes.

Applying is repeatable: a second run finds nothing to change, and a run that was interrupted is
completed by the next one.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from agent_credits.aws.backoff import back_off
from agent_credits.values.display import count_text
from agent_credits.values.errors import AccountTooLarge, Contended, RowsUnavailable
from agent_credits_cli.errors import CommandError
from agent_credits_cli.passed_limits import limits_passed
from agent_credits_cli.stack import read_stack
from agent_credits_cli.steps import Step, carry_out, plan_steps, utc_now
from agent_credits_cli.tables import AsJson, out, print_json, table
from agent_credits_cli.target import connect, rows_of
from agent_credits_cli.world_file import load_world


def apply(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Policy, plans, teams and grants, as TOML.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, without changing it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the stack's policy, teams, accounts and grants what FILE declares.

    What the file does not name stays as it is. A new plan counts from the account's next refill,
    and a team's new owner, kind or policy counts a few minutes later. All else counts at once:
    limits that are passed at once are named, also with --dry-run.
    """
    world = load_world(file)
    target = connect(context)
    rows = rows_of(target)
    try:
        now = utc_now()
        steps = plan_steps(world, read_stack(rows, world), now)
        passed = limits_passed(rows, steps, now)
        if not dry_run:
            carry_out(rows, steps, clock=utc_now, pause=back_off)
    except (RowsUnavailable, Contended, AccountTooLarge) as error:
        raise CommandError(
            f"{target.name}: {error}; run apply again, it continues from there"
        ) from error
    _print(steps, passed, target.name, dry_run=dry_run, as_json=as_json)


def _print(
    steps: Sequence[Step],
    passed: Sequence[str],
    target_name: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    differences = [difference for step in steps for difference in step.differences]
    warnings = [*(warning for step in steps for warning in step.warnings), *passed]
    if as_json:
        changes_made = [asdict(difference) for difference in differences]
        print_json({"dry_run": dry_run, "changes": changes_made, "warnings": warnings})
        return
    if not differences:
        out().print(f"{target_name}: nothing to change", soft_wrap=True)
        return
    changes = table("kind", "name", "what", "before", "after")
    for d in differences:
        changes.add_row(d.kind, d.name, d.what, d.before or "-", d.after)
    out().print(changes)
    for warning in warnings:
        out().print(f"Warning: {warning}", soft_wrap=True)
    made = "would be made" if dry_run else "made"
    out().print(f"{target_name}: {count_text(len(differences), 'change')} {made}", soft_wrap=True)
