"""How a stack is doing: what `agent-credits status` reads, and what of it needs attention.

Everything is read at the same time, with short time-outs. What cannot be read is unknown, with the
reason, and never a zero or an empty list.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, get_args

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from agent_credits.sweeps.last_sweep import LastSweep, SweepName
from agent_credits.values.display import count_text
from agent_credits.values.errors import RowNotUnderstood, RowsUnavailable
from agent_credits_cli.queues import Depth, Queue, depth_of, queues_of
from agent_credits_cli.set_aside import ids_of
from agent_credits_cli.target import Target, described, outputs_of, rows_of

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch.type_defs import MetricDataQueryTypeDef
    from mypy_boto3_sqs import SQSClient

# A call that takes longer than this is itself news about the stack.
IMPATIENT: Final = Config(
    connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2}
)
CALLS_AT_ONCE: Final = 16

AGE_METRIC: Final = "ApproximateAgeOfOldestMessage"
# SQS reports each minute, some minutes late; an older value says nothing about now.
AGE_WINDOW: Final = timedelta(minutes=10)
AGE_PERIOD_SECONDS: Final = 60

RESOURCES_MAX: Final = 1_000
# The most that CloudWatch describes by their names in one call.
ALARMS_PER_CALL: Final = 100

SWEEP_NAMES: Final[tuple[SweepName, ...]] = get_args(SweepName)
# What a sweep counts that somebody has to look at.
BAD_FINDINGS: Final[Mapping[str, str]] = {
    "AccountsDrifted": "accounts that contradict their ledgers or limits",
    "AccountsUnreadable": "accounts that cannot be read",
    "TeamsNotReported": "teams without a balance report",
}

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Unknown:
    """What could not be read, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Versions:
    """`stack` and `runtime` are None where the template has no such output."""

    command_line: str
    stack: str | None
    runtime: str | None
    stack_state: str
    deployed_at: datetime


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """`oldest_seconds`: None where no metric says it."""

    queue: Queue
    depth: Depth | Unknown
    dead_letters: int | Unknown
    oldest_seconds: int | None


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that rings, by its name in the template."""

    name: str
    since: datetime
    description: str


@dataclass(frozen=True, slots=True)
class Alarms:
    """`without_data`: alarms that nothing was ever measured for."""

    total: int
    without_data: int
    ringing: tuple[Alarm, ...]


@dataclass(frozen=True, slots=True)
class StackStatus:
    versions: Versions | Unknown
    queues: tuple[QueueStatus, ...]
    # The reason if none of the ages could be read at all.
    ages: Unknown | None
    # How many objects hold changes that could not be announced.
    set_aside: int | Unknown
    sweeps: Mapping[SweepName, LastSweep | Unknown | None]
    alarms: Alarms | Unknown

    @property
    def attention(self) -> tuple[str, ...]:
        """Return what somebody should look at, in sentences; nothing if all is well."""
        return tuple(self._attention())

    def _attention(self) -> Iterator[str]:
        if isinstance(self.versions, Unknown):
            yield f"the stack cannot be read: {self.versions.reason}"
        elif self.versions.stack_state.endswith("_FAILED"):
            yield f"the stack is in {self.versions.stack_state}"
        for one in self.queues:
            if isinstance(one.depth, Unknown):
                yield f"the queue {one.queue.name} cannot be read: {one.depth.reason}"
            if isinstance(one.dead_letters, Unknown):
                reason = one.dead_letters.reason
                yield f"the dead letters of {one.queue.name} cannot be read: {reason}"
            elif one.dead_letters:
                letters = count_text(one.dead_letters, "dead letter")
                yield f"{one.queue.name} has {letters}: see `agent-credits dead-letters`"
        if self.ages is not None:
            yield f"the age of messages cannot be read: {self.ages.reason}"
        if isinstance(self.set_aside, Unknown):
            yield f"what was set aside cannot be read: {self.set_aside.reason}"
        elif self.set_aside:
            objects = count_text(self.set_aside, "object")
            yield (
                f"changes that could not be announced are set aside in {objects}:"
                " see `agent-credits announcements list`"
            )
        for name, last in self.sweeps.items():
            if isinstance(last, Unknown):
                yield f"the last sweep {name} cannot be read: {last.reason}"
            elif last is not None:
                for finding, what in BAD_FINDINGS.items():
                    if count := last.counts.get(finding):
                        yield f"the sweep {name} of {last.day} found {what}: {count:,}"
        if isinstance(self.alarms, Unknown):
            yield f"the alarms cannot be read: {self.alarms.reason}"
        else:
            yield from (f"{alarm.name} rings" for alarm in self.alarms.ringing)


def read_status(target: Target, now: datetime) -> StackStatus:
    impatient = replace(target, config=target.config.merge(IMPATIENT))
    queues = queues_of(target.outputs)
    rows = rows_of(impatient)
    # Made here, because boto3 cannot make clients in several threads at once.
    sqs, _, _, _ = impatient.sqs, impatient.cloudwatch, impatient.cloudformation, impatient.s3
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:

        def read(call: Callable[[], Read]) -> "Callable[[], Read | Unknown]":
            return pool.submit(_or_unknown, call).result

        versions = read(partial(_versions, impatient))
        alarms = read(partial(_alarms, impatient))
        ages = read(partial(_ages, impatient, queues, now))
        depths = [read(partial(depth_of, sqs, queue.url)) for queue in queues]
        dead = [read(partial(_count_of, sqs, queue.dead_letters_url)) for queue in queues]
        set_aside = read(lambda: len(ids_of(impatient)))
        sweeps = {name: read(partial(rows.read_last_sweep, name)) for name in SWEEP_NAMES}
        known_ages = ages()
        return StackStatus(
            versions=versions(),
            queues=tuple(
                QueueStatus(
                    queue,
                    depth(),
                    letters(),
                    None if isinstance(known_ages, Unknown) else known_ages[queue.name],
                )
                for queue, depth, letters in zip(queues, depths, dead, strict=True)
            ),
            ages=known_ages if isinstance(known_ages, Unknown) else None,
            set_aside=set_aside(),
            sweeps={name: last() for name, last in sweeps.items()},
            alarms=alarms(),
        )


def _or_unknown(call: Callable[[], Read]) -> Read | Unknown:
    try:
        return call()
    except (BotoCoreError, ClientError, RowsUnavailable, RowNotUnderstood) as fault:
        return Unknown(str(fault))


def _count_of(client: "SQSClient", queue_url: str) -> int:
    return depth_of(client, queue_url).total


def _versions(target: Target) -> Versions:
    stack = described(target.cloudformation, target.stack_name)
    outputs = outputs_of(stack)
    return Versions(
        command_line=importlib.metadata.version("agent-credits"),
        stack=outputs.get("StackVersion"),
        runtime=outputs.get("FunctionsRuntime"),
        stack_state=stack["StackStatus"],
        deployed_at=stack.get("LastUpdatedTime", stack["CreationTime"]),
    )


def _ages(target: Target, queues: Sequence[Queue], now: datetime) -> dict[str, int | None]:
    """Return the age in seconds of the oldest message of each queue, where CloudWatch has it."""
    answer = target.cloudwatch.get_metric_data(
        MetricDataQueries=[_age_query(number, queue) for number, queue in enumerate(queues)],
        StartTime=now - AGE_WINDOW,
        EndTime=now,
        ScanBy="TimestampDescending",
    )
    values = {result["Id"]: result["Values"] for result in answer["MetricDataResults"]}
    newest = [values.get(f"q{number}") for number in range(len(queues))]
    return {
        queue.name: int(found[0]) if found else None
        for queue, found in zip(queues, newest, strict=True)
    }


def _age_query(number: int, queue: Queue) -> "MetricDataQueryTypeDef":
    return {
        "Id": f"q{number}",
        "MetricStat": {
            "Metric": {
                "Namespace": "AWS/SQS",
                "MetricName": AGE_METRIC,
                "Dimensions": [{"Name": "QueueName", "Value": queue.url.rpartition("/")[2]}],
            },
            "Period": AGE_PERIOD_SECONDS,
            "Stat": "Maximum",
        },
    }


def _alarms(target: Target) -> Alarms:
    pages = target.cloudformation.get_paginator("list_stack_resources").paginate(
        StackName=target.stack_name, PaginationConfig={"MaxItems": RESOURCES_MAX}
    )
    # An alarm's own name has a suffix that CloudFormation makes up.
    names = {
        resource["PhysicalResourceId"]: resource["LogicalResourceId"]
        for page in pages
        for resource in page["StackResourceSummaries"]
        if resource["ResourceType"] == "AWS::CloudWatch::Alarm" and "PhysicalResourceId" in resource
    }
    alarms = [
        alarm
        for start in range(0, len(names), ALARMS_PER_CALL)
        for alarm in target.cloudwatch.describe_alarms(
            AlarmNames=list(names)[start : start + ALARMS_PER_CALL],
            AlarmTypes=["MetricAlarm"],
            MaxRecords=ALARMS_PER_CALL,
        )["MetricAlarms"]
    ]
    return Alarms(
        total=len(alarms),
        without_data=sum(alarm["StateValue"] == "INSUFFICIENT_DATA" for alarm in alarms),
        ringing=tuple(
            Alarm(
                names[alarm["AlarmName"]],
                alarm["StateUpdatedTimestamp"],
                alarm.get("AlarmDescription", ""),
            )
            for alarm in alarms
            if alarm["StateValue"] == "ALARM"
        ),
    )
