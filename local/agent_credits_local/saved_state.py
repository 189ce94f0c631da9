"""What MiniStack saves when it is stopped, and what it leaves out: the change stream.

It saves how far a function has read a stream, but not the stream itself. Started again with
that position, it would skip as many new changes as had been read before, without a word. So the
position is removed from what it saved. What had not been read by then is lost, and is counted.
"""

import json
from pathlib import Path
from typing import Any, Final

from agent_credits_cli.target import deployed_outputs
from agent_credits_local.session import LOCAL_CLIENT_CONFIG, local_session

# What a stack cannot do without. The emulator only logs what it could not save.
SAVED: Final = ("cloudformation.json", "dynamodb.json", "lambda.json", "sqs.json")
SAVED_FUNCTIONS: Final = "lambda.json"
POSITIONS: Final = "dynamodb_stream_positions"
# A page holds up to a thousand changes.
PAGES_MAX: Final = 10_000


def changes_so_far(endpoint_url: str, stack_name: str) -> int:
    """Return how many changes the stream of AccountsTable holds; a day's, the emulator's most."""
    outputs = deployed_outputs(local_session(), LOCAL_CLIENT_CONFIG, endpoint_url, stack_name)
    settings: Any = {"endpoint_url": endpoint_url, "config": LOCAL_CLIENT_CONFIG}
    dynamodb = local_session().client("dynamodb", **settings)
    streams = local_session().client("dynamodbstreams", **settings)
    table = dynamodb.describe_table(TableName=outputs["AccountsTableName"])["Table"]
    arn = table["LatestStreamArn"]
    changes = 0
    for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
        iterator = streams.get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        for _ in range(PAGES_MAX):
            page = streams.get_records(ShardIterator=iterator)
            if not page["Records"]:
                break
            changes += len(page["Records"])
            iterator = page["NextShardIterator"]
    return changes


def is_saved(saved: Path) -> bool:
    """Return whether the emulator that was just stopped saved its state."""
    return all((saved / name).exists() for name in SAVED)


def forget_saved(saved: Path) -> None:
    """Remove what an emulator has loaded, so that it is never taken for a newer state."""
    for file in saved.glob("*.json"):
        file.unlink()


def forget_positions(saved: Path) -> int:
    """Remove from the saved state how far the stream was read, and return it."""
    file = saved / SAVED_FUNCTIONS
    document = json.loads(file.read_text())
    positions = document["payload"].pop(POSITIONS)["data"].values()
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(document))
    draft.replace(file)
    return max(positions, default=0)
