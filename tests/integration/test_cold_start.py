"""A cold start loads and creates only what its first event is sure to need."""

import json
from functools import cache
from typing import NamedTuple

import pytest
from pydantic import ValidationError

from tests.integration import lambda_runtime
from tests.integration.lambda_runtime import environment_of, output_of, variables_by_function

# Models of what hardly any batch of runs needs.
LOADED_WHEN_MET = {
    "agent_credits.billing.balance_reports",
    "agent_credits.notices.observations",
    "agent_credits.events.model_provider_table",
}

# Imports the function the way Lambda does, in an interpreter that has loaded nothing else, and
# prints the services that clients were made for and the modules that were loaded.
COLD_START = """
import json, sys
import botocore.client

services = []
make = botocore.client.ClientCreator.create_client

def noted(self, service_name, *arguments, **keywords):
    services.append(service_name)
    return make(self, service_name, *arguments, **keywords)

botocore.client.ClientCreator.create_client = noted
import app

print(json.dumps([services, sorted(sys.modules)]))
"""


class ColdStart(NamedTuple):
    services: list[str]
    modules: set[str]


@cache
def cold_start(function: str) -> ColdStart:
    printed = output_of(COLD_START, function, environment_of(function))
    services, modules = json.loads(printed)
    return ColdStart(services, set(modules))


@pytest.mark.parametrize(
    ("function", "services"),
    [
        ("announce", ["sns"]),
        ("api", ["dynamodb"]),
        ("auto_reload", ["dynamodb", "secretsmanager"]),
        ("debit_runs", ["dynamodb"]),
        ("notify_slack", ["sqs", "secretsmanager", "dynamodb"]),
        ("sweep", ["dynamodb", "sqs"]),
    ],
)
def test_a_cold_start_makes_the_clients_that_its_usual_event_needs(
    function: str, services: list[str]
) -> None:
    assert cold_start(function).services == services


def test_debiting_starts_without_the_models_of_rare_rows() -> None:
    modules = cold_start("debit_runs").modules

    assert "agent_credits.billing.teams" in modules
    assert modules & LOADED_WHEN_MET == set()


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        (function, name)
        for function, names in variables_by_function().items()
        for name in sorted(names)
        # What Powertools reads has defaults of its own.
        if not name.startswith("POWERTOOLS_")
    ],
)
def test_a_setting_that_is_missing_fails_the_cold_start_by_name(
    function: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = environment_of(function)
    del environment[missing]
    monkeypatch.delenv(missing, raising=False)

    with pytest.raises(ValidationError) as refused:
        lambda_runtime.cold_start(function, environment, monkeypatch)

    (error,) = refused.value.errors()
    assert (error["type"], error["loc"]) == ("missing", (missing,))
