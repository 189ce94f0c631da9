"""Who pays for a team's runs, and the pools that stand on each account."""

from agent_credits.billing.payers import payers, pools_of
from agent_credits.values.principals import Principal
from tests.unit.builders import ACME, ANA, BEN, NOW, OLGA, POLICY
from tests.unit.commit.test_shared_pools import TEAM, sharing


def test_the_pools_of_a_payer_are_those_of_all_its_rules() -> None:
    assert pools_of(ANA, POLICY) == ("trial", "plan", "add_on")
    assert pools_of(Principal("team", "bigcorp"), POLICY) == ("trial", "contract")


def test_a_pool_that_a_team_shares_is_on_the_account_of_the_team_alone() -> None:
    assert pools_of(ANA, sharing()) == ("trial", "plan", "add_on")
    assert "shared" in pools_of(TEAM, sharing())


def test_a_team_whose_pool_its_members_draw_is_one_of_its_payers() -> None:
    assert payers(ACME, POLICY, NOW) == [OLGA, ANA, BEN]
    assert payers(ACME, sharing(), NOW) == [OLGA, ANA, BEN, TEAM]
