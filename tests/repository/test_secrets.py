"""Secrets are in Secrets Manager, and nowhere else: not in a template, an environment or a log."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.template import TEMPLATE_FILE, Template, load_template

ROOT = Path(__file__).parents[2]
# What the keys of the providers that are used here begin with, and what a private key does.
KEY_MATERIAL = re.compile(
    r"\b(?:[srp]k_live_[0-9A-Za-z]{8,}|sk_test_[0-9A-Za-z]{16,}|AKIA[0-9A-Z]{16})"
    r"|hooks\.slack\.com/services/T[0-9A-Z]{6,}|-----BEGIN [A-Z ]*PRIVATE KEY"
)
NAMES_OF_SECRETS = re.compile(
    r"SECRET|PASSWORD|TOKEN|API_KEY|PRIVATE|CREDENTIAL|WEBHOOK", re.IGNORECASE
)
SOURCES = (
    *("*.toml", "*.yaml", "events/**/*"),
    *("shared/**/*.py", "functions/**/*.py", "cli/**/*.py", "local/**/*.py"),
)


def secrets_in_environments(template: Template) -> Iterator[str]:
    environments = {"Globals": template["Globals"]["Function"]["Environment"]["Variables"]}
    for name, resource in template["Resources"].items():
        environment = resource.get("Properties", {}).get("Environment", {})
        if environment:
            environments[name] = environment["Variables"]
    for name, variables in environments.items():
        for variable, value in variables.items():
            if "{{resolve:" in json.dumps(value):
                yield f"{variable} of {name} is resolved when it is deployed, so it is in the open"
            if NAMES_OF_SECRETS.search(variable) and not names_a_secret(template, variable, value):
                yield f"{variable} of {name} holds what it should only name"


def names_a_secret(template: Template, variable: str, value: Any) -> bool:
    """Whether the value is the id of a secret, which is of no use without the right to read it."""
    match value:
        case {"Fn::If": [_, there, ""]}:
            return names_a_secret(template, variable, there)
        case {"Fn::GetAtt": [str(name), "Id"]}:
            resource = template["Resources"][name]
            return variable.endswith("_SECRET_ARN") and resource["Type"].endswith("::Secret")
        case _:
            return False


def secrets_in_parameters(template: Template) -> Iterator[str]:
    for name, parameter in template["Parameters"].items():
        # One of SSM's is read when it is deployed, and stands in the open from then on.
        if parameter["Type"].startswith("AWS::SSM") or parameter.get("NoEcho"):
            yield f"{name} is a secret that whoever deploys has to hold"


def test_no_function_is_given_a_secret() -> None:
    assert list(secrets_in_environments(load_template())) == []


def test_nobody_deploys_with_a_secret() -> None:
    assert list(secrets_in_parameters(load_template())) == []


def test_no_key_stands_in_the_template_or_the_code() -> None:
    files = [path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file()]

    assert len(files) > 100
    assert TEMPLATE_FILE in files
    assert [(p, found[0]) for p in files if (found := KEY_MATERIAL.search(p.read_text()))] == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STRIPE_API_KEY", "rk_live_0"),
        ("STRIPE_SECRET_ARN", {"Ref": "StripeApiBase"}),
        ("EVENT_SIGNING_SECRET_ARN", {"Fn::GetAtt": ["StripeSecret", "SecretString"]}),
        ("SLACK_WEBHOOK", {"Fn::GetAtt": ["StripeSecret", "Id"]}),
        ("ANY", {"Fn::Sub": "{{resolve:secretsmanager:${StripeSecret}}}"}),
    ],
)
def test_a_secret_in_an_environment_is_noticed(variable: str, value: Any) -> None:
    template = load_template()
    template["Resources"]["AutoReload"]["Properties"]["Environment"]["Variables"][variable] = value

    (noticed,) = secrets_in_environments(template)

    assert noticed.startswith(f"{variable} of AutoReload ")


@pytest.mark.parametrize(
    "parameter",
    [{"Type": "String", "NoEcho": True}, {"Type": "AWS::SSM::Parameter::Value<String>"}],
)
def test_a_secret_among_the_parameters_is_noticed(parameter: dict[str, Any]) -> None:
    template = load_template()
    template["Parameters"]["Key"] = parameter

    assert list(secrets_in_parameters(template)) == [
        "Key is a secret that whoever deploys has to hold"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "sk_live_" + "0123456789",
        "AKIA" + "0123456789ABCDEF",
        "https://hooks.slack.com/services/" + "T01234567",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
    ],
)
def test_key_material_is_noticed(text: str) -> None:
    assert KEY_MATERIAL.search(f"key = '{text}'")
