"""The target of a command is AWS only if AWS and a stack are both named."""

from pathlib import Path

import pytest

from agent_credits_cli.errors import CommandError
from agent_credits_cli.target import Target, aws_session, choose, connect_to_aws


@pytest.mark.parametrize(
    ("environment", "options", "complaint"),
    [
        ("aws", {"aws": False, "stack_name": None}, "name it with --stack-name"),
        ("local", {"aws": True, "stack_name": None}, "name it with --stack-name"),
        ("local", {"aws": False, "stack_name": "live"}, "add --aws"),
        ("production", {"aws": False, "stack_name": None}, "set it to `local` or `aws`"),
    ],
)
def test_aws_needs_both_the_option_and_a_stack_name(
    environment, options, complaint, monkeypatch, tmp_path
):
    def connect(path: Path) -> Target:
        raise AssertionError(f"no command may connect to the stack in {path}")

    monkeypatch.setenv("AGENT_CREDITS_TARGET", environment)

    with pytest.raises(CommandError, match=complaint):
        choose(state_path=tmp_path, connect_to_local=connect, **options)


def test_a_missing_region_is_named_first(monkeypatch, tmp_path):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(CommandError, match=r"^no AWS region is set; set AWS_REGION to the region"):
        connect_to_aws("live")


def test_the_region_that_the_hint_asks_for_is_the_one_that_counts(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert aws_session().region_name == "eu-central-1"

    monkeypatch.setenv("AWS_REGION", "")
    assert aws_session().region_name == "us-east-1"
