"""Where a command talks to: never to an account unless AWS and a stack are both named."""

from pathlib import Path

import pytest

from agent_credits_cli.errors import CommandError
from agent_credits_cli.target import Target, choose


@pytest.mark.parametrize(
    ("environment", "options", "complaint"),
    [
        ("aws", {"aws": False, "stack_name": None}, "name it with --stack-name"),
        ("local", {"aws": True, "stack_name": None}, "name it with --stack-name"),
        ("local", {"aws": False, "stack_name": "live"}, "add --aws"),
        ("production", {"aws": False, "stack_name": None}, "set it to `local` or `aws`"),
    ],
)
def test_aws_is_never_chosen_by_halves(environment, options, complaint, monkeypatch, tmp_path):
    def connect(path: Path) -> Target:
        raise AssertionError(f"nothing is to connect to a stack in {path}")

    monkeypatch.setenv("AGENT_CREDITS_TARGET", environment)

    with pytest.raises(CommandError, match=complaint):
        choose(state_path=tmp_path, connect_to_local=connect, **options)
