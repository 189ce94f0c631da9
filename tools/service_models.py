"""Writes what the functions need of botocore's data, for the layer to bring along.

    python tools/service_models.py

Botocore reads the whole model of a service when a client is made, and the endpoints of all services
of AWS with the first client; the functions call fourteen operations of four services. `make lock`
writes shared/agent_credits/service_models/ anew from the botocore that is pinned, and
tests/unit/test_service_models.py holds it to that botocore, and OPERATIONS to the code.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from botocore.loaders import Loader

FOLDER = Path(__file__).parents[1] / "shared" / "agent_credits" / "service_models"

# What the functions call, by service; Powertools, too, where a function gives it a client.
OPERATIONS = {
    "dynamodb": {
        *("BatchExecuteStatement", "BatchGetItem", "DeleteItem", "GetItem"),
        *("PutItem", "Query", "Scan", "UpdateItem"),
    },
    "secretsmanager": {"GetSecretValue"},
    "sns": {"Publish"},
    "sqs": {
        *("ChangeMessageVisibility", "ChangeMessageVisibilityBatch"),
        *("SendMessage", "SendMessageBatch"),
    },
}

README = """\
# Service models

A part of the data of botocore {version}, made by `make service-models`; not to be edited.

Botocore reads these files in place of its own of the same name (`agent_credits.clients` says how
and why). A `service-2.json` holds the operations that the functions call, with the shapes that they
reach; `endpoints.json` holds all partitions and regions, for these services. Documentation is left
out, and everything else is as it was. What is not here, botocore takes from its own data.

Botocore is Copyright 2012-2022 Amazon.com, Inc. or its affiliates. All Rights Reserved. It is
licensed under the [Apache License 2.0](https://www.apache.org/licenses/LICENSE-2.0), and comes from
<https://github.com/boto/botocore>.
"""


def written() -> dict[Path, str]:
    """Return the text of each file, by its path in the folder."""
    data = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    files = {
        Path("README.md"): README.format(version=version("botocore")),
        Path("endpoints.json"): _json(endpoints_of(data.load_data("endpoints"), OPERATIONS.keys())),
    }
    for service, operations in OPERATIONS.items():
        api_version = data.determine_latest_version(service, "service-2")
        path = Path(service, api_version, "service-2")
        # As it is in the file: what botocore adds from its extras, it will add to this copy too.
        model = model_of(data.load_data(str(path)), operations)
        files[path.with_suffix(".json")] = _json(model)
    return files


def model_of(model: Mapping[str, Any], operations: Collection[str]) -> dict[str, Any]:
    """Return a service's model with these operations alone."""
    kept = {name: model["operations"][name] for name in operations}
    shapes: dict[str, Any] = {}
    waiting = list(_named_shapes(kept))
    while waiting:
        name = waiting.pop()
        if name not in shapes:
            shapes[name] = model["shapes"][name]
            waiting += _named_shapes(shapes[name])
    return _undocumented({**model, "operations": kept, "shapes": shapes})


def endpoints_of(endpoints: Mapping[str, Any], services: Collection[str]) -> dict[str, Any]:
    """Return all partitions, each with the endpoints of these services alone."""
    partitions = [
        {
            **partition,
            "services": {
                name: service for name, service in partition["services"].items() if name in services
            },
        }
        for partition in endpoints["partitions"]
    ]
    return {**endpoints, "partitions": partitions}


def _named_shapes(node: Any) -> Iterator[str]:
    """Yield the shapes that are named anywhere in a part of a model."""
    match node:
        case dict():
            # A member that happens to be called `shape` is no text.
            if isinstance(node.get("shape"), str):
                yield node["shape"]
            for inner in node.values():
                yield from _named_shapes(inner)
        case list():
            for inner in node:
                yield from _named_shapes(inner)


def _undocumented(node: Any) -> Any:
    match node:
        case dict():
            # A member that happens to be called `documentation` is no text either.
            return {
                name: _undocumented(inner)
                for name, inner in node.items()
                if not (name == "documentation" and isinstance(inner, str))
            }
        case list():
            return [_undocumented(inner) for inner in node]
        case _:
            return node


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n"


def main() -> None:
    # A version of an API that is no longer the latest would stay behind otherwise.
    shutil.rmtree(FOLDER, ignore_errors=True)
    for path, text in written().items():
        file = FOLDER / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
