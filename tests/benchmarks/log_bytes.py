"""What DebitRuns prints, in bytes: its own handler's output for batches of one account.

CloudWatch bills logs by the byte. The handler runs in an interpreter of its own, with the rows in
memory, so that what it prints is what Lambda would store.
"""

import json
from dataclasses import dataclass
from functools import partial

from tests.benchmarks.workloads import SIZES
from tests.integration.lambda_runtime import ROOT, environment_of, output_of

FUNCTION = "debit_runs"

# Names as long as those that CloudFormation and Lambda make.
DEBIT_ONE_BATCH = """
import sys
import app

sys.path.append({root!r})
from agent_credits.billing.directory import Directory
from agent_credits.intake.debits import Debits
from tests.benchmarks.agent_credits_design import rows_of
from tests.benchmarks.workloads import hot_account
from tests.integration.lambda_runtime import Context
from tests.unit.builders import NOW, pause

workload = hot_account({size}, 1, warm_up=0)
rows = rows_of(workload)
app.debits = Debits(rows, Directory(rows), pause)
app.now = lambda: NOW
name = "agent-credits-DebitRuns-0a1b2c3d4e5f"
context = Context(
    function_name=name,
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:" + name,
    aws_request_id="00000000-0000-4000-8000-000000000000",
)
records = [
    {{"messageId": f"{{n:08x}}-0000-4000-8000-000000000000", "receiptHandle": "", "body": body}}
    for n, body in enumerate(workload.batches[0])
]
assert app.handler({{"Records": records}}, context) == {{"batchItemFailures": []}}
"""


@dataclass(frozen=True, slots=True)
class LogBytes:
    """Bytes of a commit's line by its number of events, and of an invocation's metrics.

    `of_events` are those of the lines that the same commit adds at DEBUG.
    """

    of_commit: dict[int, int]
    of_events: dict[int, int]
    of_metrics: int


def measure_log_bytes() -> LogBytes:
    printed = {size: _printed(size, "DEBUG") for size in SIZES}
    # A copy prints one more when it starts. The length of the others depends on the digits.
    of_metrics = max(
        len(line)
        for lines in printed.values()
        for line in lines
        if "_aws" in json.loads(line) and "ColdStart" not in json.loads(line)
    )
    of_level = partial(_bytes_of_level, printed)
    return LogBytes(of_level("INFO"), of_level("DEBUG"), of_metrics)


def _bytes_of_level(printed: dict[int, list[str]], level: str) -> dict[int, int]:
    return {
        size: sum(len(line) for line in lines if json.loads(line).get("level") == level)
        for size, lines in printed.items()
    }


def _printed(events: int, level: str) -> list[str]:
    """Return the lines that a batch of so many events prints, each with its line break."""
    environment = {
        **environment_of(FUNCTION),
        "STACK_NAME": "agent-credits",
        "POWERTOOLS_SERVICE_NAME": FUNCTION,
        "POWERTOOLS_METRICS_NAMESPACE": "AgentCredits",
        "POWERTOOLS_LOG_LEVEL": level,
    }
    program = DEBIT_ONE_BATCH.format(root=str(ROOT), size=events)
    return output_of(program, FUNCTION, environment).splitlines(keepends=True)
