from typing import Any

import pytest
from pydantic import ValidationError

from agent_credits.billing.policy import BillingPolicy, BillingRule
from tests.unit.builders import POLICY


@pytest.mark.parametrize(
    ("team", "trigger", "payer", "pools"),
    [
        ("self_serve", "user", "user", ("trial", "plan", "add_on")),
        ("self_serve", "team_api_key", "owner", ("trial", "plan", "add_on")),
        ("self_serve", "schedule", "owner", ("trial", "plan", "add_on")),
        ("enterprise", "user", "team", ("trial", "contract")),
        ("enterprise", "team_api_key", "team", ("trial", "contract")),
        ("enterprise", "schedule", "team", ("trial", "contract")),
    ],
)
def test_exactly_one_rule_applies_to_each_team_and_trigger(
    team: Any, trigger: Any, payer: str, pools: tuple[str, ...]
) -> None:
    rule = POLICY.rule_for(team, trigger)

    assert (rule.payer, rule.pools) == (payer, pools)


def test_a_policy_without_a_rule_for_some_run_is_rejected() -> None:
    with pytest.raises(ValidationError, match="0 rules answer for trigger 'user' of a self_serve"):
        BillingPolicy(version="1", rules=POLICY.rules[1:])


def test_a_policy_with_two_rules_for_some_run_is_rejected() -> None:
    with pytest.raises(ValidationError, match="2 rules answer for trigger 'user'"):
        BillingPolicy(version="1", rules=(*POLICY.rules, POLICY.rules[0]))


def test_only_a_user_can_be_billed_for_a_users_run() -> None:
    with pytest.raises(ValidationError, match="only a run with trigger `user`"):
        BillingRule(team="self_serve", triggers=("user", "schedule"), payer="user", pools=("plan",))


def test_an_enterprise_team_is_never_billed_to_an_owner() -> None:
    with pytest.raises(ValidationError, match="use payer `team`"):
        BillingRule(team="enterprise", triggers=("user",), payer="owner", pools=("contract",))


def test_a_pool_is_listed_once_in_an_order() -> None:
    with pytest.raises(ValidationError, match="a pool is listed twice"):
        BillingRule(team="self_serve", triggers=("user",), payer="user", pools=("plan", "plan"))


@pytest.mark.parametrize("pool", ["", "Plan", "add-on", "1st", "a" * 33, "plan "])
def test_a_pool_has_a_plain_name(pool: str) -> None:
    with pytest.raises(ValidationError):
        BillingRule(team="self_serve", triggers=("user",), payer="user", pools=(pool,))


def test_an_unknown_field_is_rejected() -> None:
    document = {**POLICY.model_dump(), "discount": 3}

    with pytest.raises(ValidationError, match="discount"):
        BillingPolicy.model_validate(document)
