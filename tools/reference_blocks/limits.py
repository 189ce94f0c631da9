"""Every bound of the system with the constant that holds it, so that none is known by hearsay.

A constant of the package whose name ends in `_MAX` or `_MIN` needs its words here.
"""

import ast
import importlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import StringConstraints

from agent_credits.values.identifiers import Identifier, PoolName, SourceUri
from tools.blocks import table

PACKAGE: Final = Path(__file__).parents[2] / "shared" / "agent_credits"

Words = Mapping[str, str]

EVENTS: Final[Words] = {
    "values.credits.CREDITS_MAX": "credits of one event, grant, pack or threshold",
    "values.credits.MICROCREDITS_MAX": "the same in microcredits",
    "events.agent_runs.EVENTS_PER_MESSAGE_MAX": "events in one message",
    "events.agent_runs.YEARS": "years that an event's `time` may be in",
    "billing.teams.CLOCK_SKEW_MAX": "how far ahead of our clock an event's `time` may be",
    "intake.debits.ORDER_MIXED_UP_FOR": (
        "how long after its `time` an event waits for the one before it: an extension, a release or"
        " a child for the request that reserves"
    ),
    "events.model_provider_errors.RETRY_AFTER_SECONDS_MAX": (
        "seconds in `retry_after_seconds` of a model provider's answer"
    ),
    "events.signatures.KEYS_MAX": "signing keys that are valid at the same time",
    "events.signatures.KEY_CHARACTERS_MIN": "fewest characters of a signing key",
}
SETTINGS: Final[Words] = {
    "billing.teams.MEMBERS_MAX": 'members that a team lists; `"*"` has no bound',
    "billing.teams.FORMER_MEMBERS_MAX": (
        "users who were removed that a team remembers, so that what they used before still counts"
    ),
    "billing.teams.TENURES_MAX": "changes of owner, kind or policy that a team remembers",
    "billing.teams.TENURE_NOTICE": (
        "after which another owner, kind or policy, or a member's removal, counts"
    ),
    "billing.teams.SETTINGS_TTL": "how old the settings may be that a worker bills by",
    "billing.policy.POOLS_PER_RULE_MAX": "pools in one rule",
    "billing.policy.GRACE_DAYS_DEFAULT": "days of grace where the policy names none",
    "billing.alerts.THRESHOLDS_MAX": "thresholds of a team",
}
ACCOUNTS: Final[Words] = {
    "ledger.grants.GRANTS_MAX": "grants that an account holds; commands decline one more",
    "aws.items.ROW_BYTES_MAX": "bytes of an account's row",
    "ledger.accounts.PAGE_ENTRIES_FULL": "entries from which a page is full",
    "ledger.accounts.PAGE_IDENTIFIER_BYTES_FULL": "bytes of identifiers from which a page is full",
    "ledger.accounts.ROOM_FOR_RESERVATIONS_MAX": (
        "live reservations of an account up to which its page leaves them room in one write unit"
    ),
    "ledger.entries.PAGES_MAX": "pages of one account",
    "ledger.accounts.ERRORED_RUNS_MAX": (
        "runs that ended with a platform error that an account remembers, to waive late usage"
    ),
    "commit.decide.ERRORED_RUNS_REMEMBERED_FOR": ("how long it remembers them, at the least"),
}
RESERVATIONS: Final[Words] = {
    "ledger.reservations.RESERVATIONS_MAX": "live reservations of an account",
    "ledger.reservations.RUN_ID_BYTES_MAX": "characters of the run ids of these together",
    "ledger.reservations.TREE_DEPTH_MAX": "runs in line in a tree, the root included",
    "ledger.reservations.CHILDREN_MAX": "runs directly below a run that hold a reservation",
    "ledger.reservations.TTL_DEFAULT": "how long a reservation lasts where nothing else is said",
    "ledger.reservations.TTL_MIN": "shortest time that a policy or an event may ask for",
    "ledger.reservations.TTL_MAX": "longest such time",
    "notices.auto_reload.PAUSED_RUNS_NAMED_MAX": (
        "paused runs that `credits_restored` names, the newest ones"
    ),
}
TEAM_LIMITS: Final[Words] = {
    "billing.limits.TEAM_LIMITS_MAX": "limits that a team declares",
    "billing.limits.WARN_AT_MAX": "percentages at which one of them warns",
    "ledger.limits.COUNTS_MAX": (
        "limits that an account counts at the same time; what would be counted under one more is"
        " stopped"
    ),
    "ledger.limits.HELD_BUCKET": (
        "for how long a limit of several accounts may still count a reservation that has expired"
    ),
    "billing.limit_standings.LIMIT_ROWS_READ_MAX": (
        "limits of several accounts that a command or a report reads; of more, those of which least"
        " is used are left out"
    ),
    "billing.balance_reports.LIMITS_LISTED_MAX": "limits that a balance report names",
}
MONEY: Final[Words] = {
    "ledger.reloads.RELOAD_DEADLINE": "how long events wait for a reload before they fail",
    "ledger.reloads.DECLINE_HOLD": (
        "how long a declined payment, an unavailable provider, or settings that do not apply stand"
        " before the next attempt"
    ),
    "billing.spend_cap.DECLINES_MAX": "declines in a row after which a card is not tried again",
    "billing.spend_cap.WARNING_PERCENTS": "per cent of the spend cap that are announced",
    "billing.spend_cap.RESERVATIONS_MAX": "purchases of one team that are under way",
    "billing.spend_cap.RECENT_MAX": "last purchases that a team's row keeps",
    "ledger.reloads.ASK_AGAIN_SECONDS": (
        "seconds after which an open payment is asked about again, until the deadline"
    ),
    "ledger.reloads.ASK_AGAIN_SECONDS_LONGEST": (
        "longest such wait in seconds after the deadline, which doubles each time"
    ),
    "ledger.accounts.RELOADS_REMEMBERED_MAX": "reloads that an account remembers",
    "payments.stripe_payments.CALLS_PER_ATTEMPT_MAX": "calls to Stripe in one attempt",
    "payments.stripe_payments.CALL_TIMEOUT_SECONDS": "seconds that one call to Stripe may take",
}
NOTICES: Final[Words] = {
    "notices.notice.SUBJECT_LENGTH_MAX": "characters of a notice's subject",
    "billing.balance_reports.ACCOUNTS_LISTED_MAX": "accounts that a balance report names",
    "sweeps.limit_rows.READS_MAX": "reads after which a limit that moved each time is not compared",
    "sweeps.reconciliation_sweep.FINDINGS_LISTED_MAX": "contradictions that a notice names",
    "sweeps.reconciliation_sweep.REPLAY_AGAIN_AFTER": (
        "after which reconciling reads a ledger from its first page again"
    ),
    "notices.observations.KEPT_FOR": "how long a row of what was observed is kept",
    "aws.kept_notices.KEPT_FOR": "how long a notice is kept for `agent-credits notices`",
    "aws.kept_notices.RESULT_PAGES_MAX": "answers that listing the notices of one day may take",
    "ledger.burn.PROJECTION_DAYS_MAX": "days that a projection looks ahead",
    "notices.slack_messages.HEADER_LENGTH_MAX": "characters of a header in Slack (Slack's limit)",
    "notices.slack_messages.TEXT_LENGTH_MAX": "characters of a text in Slack (Slack's limit)",
    "notices.slack_messages.FIELD_LENGTH_MAX": "characters of a field in Slack (Slack's limit)",
    "notices.slack_messages.FIELDS_PER_SECTION_MAX": "fields of a section in Slack (Slack's limit)",
    "notices.slack_messages.FIELDS_MAX": "facts in a message in Slack",
    "notices.slack_messages.LINES_MAX": "lines of a list in a message in Slack",
    "notices.slack_messages.VALUE_LENGTH_MAX": "characters of a value in a message in Slack",
    "notices.slack_posts.POST_SECONDS_MAX": "seconds that one post to Slack may take",
    "notices.slack_posts.RETRY_AFTER_SECONDS_MAX": "longest wait in seconds that Slack may ask for",
    "notices.slack_posts.SPREAD_SECONDS_MAX": (
        "seconds that a notice waits longer than Slack asks, so that not all come at once"
    ),
}
WORK: Final[Words] = {
    "commit.write_protocol.ATTEMPTS_MAX": "races that a commit may lose before it gives up",
    "commit.write_protocol.CHANGES_PER_COMMIT_MAX": "changes in one commit",
    "commit.together.ACCOUNTS_TOGETHER_MAX": (
        "accounts whose runs share a limit that are committed in one transaction"
    ),
    "commit.together.FAULTS_ALONE_MAX": (
        "of these, accounts that meet a fault alone as well before the others are given back"
    ),
    "commit.together.ROWS_TOGETHER_MAX": "rows in one transaction (DynamoDB's limit)",
    "intake.debits.WARM_ACCOUNTS_MAX": "accounts that a worker keeps warm",
    "intake.debits.ACCOUNTS_READ_AHEAD": "accounts of a batch that are read together",
    "aws.threads.COMMITS_AT_ONCE": "accounts of a batch that are committed at the same time",
    "aws.threads.CONNECTIONS_MAX": "connections of a worker to DynamoDB",
    "intake.model_provider_errors.KNOWN_MAX": "model providers' answers that a worker remembers",
    "billing.directory.TEAMS_CACHED_MAX": "teams that a worker caches",
    "aws.cached_secret.SECRET_TTL": "how old a secret may be that a worker uses",
    "aws.codec.PAGES_REMEMBERED_MAX": "packed pages that a worker remembers",
    "aws.codec.READABLE_BYTES_MAX": "bytes up to which a page stays readable text",
    "aws.dynamodb_rows.BATCH_GET_KEYS_MAX": "keys in one BatchGetItem (DynamoDB's limit)",
    "aws.dynamodb_rows.BATCH_STATEMENTS_MAX": "statements in one batch (DynamoDB's limit)",
    "aws.dynamodb_rows.BATCH_ROUNDS_MAX": "rounds until a batch that is only partly taken fails",
    "aws.dynamodb_rows.RESULT_PAGES_MAX": "answers that one query may take",
    "aws.sqs_batches.BATCH_ENTRIES_MAX": "entries in one batch of SQS (SQS's limit)",
    "sweeps.sweep.ROWS_PER_STEP_MAX": "rows that one step of a sweep reads",
    "sweeps.sweep.STEP_ATTEMPTS_MAX": "failures after which a step is taken apart row by row",
    "sweeps.sweep.VISITS_PER_ROW_MAX": "visits that one row may take",
}
API: Final[Words] = {
    "api.tokens.LEEWAY": "how far an issuer's clock may be off",
    "api.tokens.TEAMS_MAX": "teams in a token",
    "api.tokens.TOKEN_BYTES_MAX": "characters of a token",
    "api.tokens.KEYS_MAX": "keys of an issuer",
    "api.tokens.KEYS_TTL": "after which the issuer's keys are fetched again",
    "api.tokens.FETCHES_APART": "shortest time between two attempts to fetch them",
    "api.tokens.KEYS_STALE_MAX": "how old keys may be while the issuer does not answer",
    "api.cursors.LIST_LIMIT_MAX": "entries of one page of a list",
    "api.ledger.PAGES_PER_ANSWER_MAX": "pages of the ledger that one answer reads",
    "api.audit.AUDIT_SHOWN_MAX": "changes of a team that are shown at once",
    "api.limits.STANDINGS_SHOWN_MAX": (
        "limits in one answer, each with where it stands; of more, those used least are left out"
    ),
    "api.settings.SPEND_CAP_CENTS_MAX": "a spend cap that the API takes, in minor units",
    "api.purchases.PACKS_MAX": "packs in one purchase",
    "aws.issuer.FETCH_SECONDS_MAX": "seconds that fetching them may take",
    "aws.issuer.JWKS_BYTES_MAX": "bytes of the issuer's keys",
}
GROUPS: Final[Mapping[str, Words]] = {
    "Events": EVENTS,
    "Settings": SETTINGS,
    "Accounts and ledger": ACCOUNTS,
    "Reservations": RESERVATIONS,
    "Limits of teams": TEAM_LIMITS,
    "Reloads and purchases": MONEY,
    "Notices": NOTICES,
    "HTTP API": API,
    "Work in one go": WORK,
}


def tables() -> str:
    """Return one table for each group. Raises LookupError for a bound without its words."""
    named = {name for group in GROUPS.values() for name in group}
    unnamed = set(_bounds()) - named
    if unnamed:
        raise LookupError(f"say what it bounds: {', '.join(sorted(unnamed))}")
    return "\n".join(
        f"\n## {title}\n\n{table(('limit', '>value', 'constant'), _rows(group))}\n"
        for title, group in GROUPS.items()
    )


def texts() -> str:
    """Return the bounds of names, which are types and not constants."""
    rows = [
        ("id of a team, user, run, event, project, grant, plan, key or policy", Identifier),
        ("`source` and `dataschema` of an event", SourceUri),
        ("name of a pool", PoolName),
    ]
    return table(
        ("text", ">most characters", "matches"),
        [
            (what, str(constraints.max_length), f"`{constraints.pattern}`")
            for what, annotated in rows
            for constraints in get_args(annotated)[1:]
            if isinstance(constraints, StringConstraints)
        ],
    )


def _rows(group: Words) -> Iterator[tuple[str, str, str]]:
    for name, words in group.items():
        yield words, _shown(_value(name)), f"`{name}`"


def _bounds() -> Iterator[str]:
    """Yield every bound that a module of the package defines, as `room.module.NAME`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for statement in ast.parse(path.read_text()).body:
            match statement:
                case ast.Assign(targets=[target]) | ast.AnnAssign(target=target):
                    name = ast.unparse(target)
                    if name.endswith(("_MAX", "_MIN")) and not name.startswith("_"):
                        yield f"{module}.{name}"
                case _:
                    pass


def _value(name: str) -> Any:
    module, _, constant = name.rpartition(".")
    return getattr(importlib.import_module(f"agent_credits.{module}"), constant)


def _shown(value: Any) -> str:
    match value:
        case timedelta():
            return _duration(int(value.total_seconds()))
        case range():
            return f"{value.start} to {value.stop - 1}"
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return f"{value:,}"


def _duration(seconds: int) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds % length == 0:
            count = seconds // length
            return f"{count} {unit}{'s' * (count != 1)}"
    raise ValueError("a second divides every number of seconds")
