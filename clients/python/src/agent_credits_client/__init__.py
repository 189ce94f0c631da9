"""Reserve, report and settle the credits of AI-agent runs. `AgentCredits` is where to begin."""

from agent_credits_client.aio import AsyncAgentCredits, AsyncRun
from agent_credits_client.client import AgentCredits, Run
from agent_credits_client.errors import (
    AgentCreditsError,
    Conflict,
    Directed,
    Directive,
    InsufficientCredits,
    Invalid,
    JournalDamaged,
    JournalInUse,
    NoAnswer,
    NotAllowed,
    Refused,
    ReloadPending,
    RunEnded,
    RunPaused,
    RunStopped,
    Unavailable,
    UsageNotReported,
    UsageRejected,
)
from agent_credits_client.messages import hmac_sha256
from agent_credits_client.requests import ScheduleTrigger, Status, TeamApiKeyTrigger, UserTrigger
from agent_credits_client.runs import Options, Reservation

__all__ = [
    "AgentCredits",
    "AgentCreditsError",
    "AsyncAgentCredits",
    "AsyncRun",
    "Conflict",
    "Directed",
    "Directive",
    "InsufficientCredits",
    "Invalid",
    "JournalDamaged",
    "JournalInUse",
    "NoAnswer",
    "NotAllowed",
    "Options",
    "Refused",
    "ReloadPending",
    "Reservation",
    "Run",
    "RunEnded",
    "RunPaused",
    "RunStopped",
    "ScheduleTrigger",
    "Status",
    "TeamApiKeyTrigger",
    "Unavailable",
    "UsageNotReported",
    "UsageRejected",
    "UserTrigger",
    "hmac_sha256",
]
