from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agent_credits.billing.policy import Pack
from agent_credits.billing.spend_cap import PaymentMethod
from agent_credits.billing.teams import AutoReload
from agent_credits.values.principals import Principal
from agent_credits_cli.errors import CommandError
from agent_credits_cli.world import World
from agent_credits_cli.world_file import load_world

ANA = Principal("user", "ana")

WORLD = """
[policy]
version = "v1"

[[policy.rules]]
team = "self_serve"
triggers = ["user"]
payer = "user"
pools = ["plan", "add_on"]

[[policy.rules]]
team = "self_serve"
triggers = ["team_api_key", "schedule"]
payer = "owner"
pools = ["plan", "add_on"]

[[policy.rules]]
team = "enterprise"
triggers = ["user", "team_api_key", "schedule"]
payer = "team"
pools = ["contract"]

[[plans]]
name = "build"
kind = "self_serve"
credits = "400"

[[plans]]
name = "enterprise"
kind = "enterprise"

[[teams]]
team_id = "acme"
kind = "self_serve"
plan = "build"
owner = "ana"
members = ["ana", "ben"]
time_zone = "Europe/Berlin"
anchor = 2025-01-31

[[teams]]
team_id = "globex"
kind = "enterprise"
plan = "enterprise"
owner = "gus"
members = "*"
time_zone = "UTC"
anchor = 2025-01-01

[[grants]]
principal = "user:ana"
id = "order-1"
pool = "add_on"
credits = "12.5"
cause = "purchase"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "world.toml"


def complaint_about(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(CommandError) as refused:
        load_world(file)
    line = str(refused.value)
    assert line.startswith(str(file))
    assert "\n" not in line
    return line.removeprefix(str(file))


def changed(old: str, new: str) -> str:
    assert WORLD.count(old) >= 1, "the test changes what is there"
    return WORLD.replace(old, new, 1)


def with_grants(*grants: str) -> str:
    tables = "".join(f'\n[[grants]]\ncause = "gift"\n{grant}\n' for grant in grants)
    return WORLD + tables


def test_reads_credits_as_microcredits_and_dates_as_dates(file: Path) -> None:
    file.write_text(WORLD)

    world = load_world(file)

    assert [plan.microcredits for plan in world.plans] == [400_000_000, 0]
    assert world.grants[0].microcredits == 12_500_000
    assert world.teams[0].anchor.isoformat() == "2025-01-31"


def test_everyone_who_may_pay_for_a_team_has_an_account(file: Path) -> None:
    file.write_text(WORLD)

    accounts = load_world(file).team_of_accounts()

    assert {str(principal): team.team_id for principal, team in accounts.items()} == {
        "user:ana": "acme",
        "user:ben": "acme",
        "team:globex": "globex",
    }


def test_policy_decides_who_may_pay(file: Path) -> None:
    owner_pays = changed(
        'triggers = ["user"]\npayer = "user"', 'triggers = ["user"]\npayer = "owner"'
    )
    file.write_text(owner_pays)

    accounts = load_world(file).team_of_accounts()

    assert {str(principal) for principal in accounts} == {"user:ana", "team:globex"}


def test_members_may_be_everyone_only_where_the_team_pays(file: Path) -> None:
    file.write_text(WORLD)

    world = load_world(file)

    assert world.teams[1].member_set == "*"
    assert "list them instead" in complaint_about(
        file, changed('members = ["ana", "ben"]', 'members = "*"')
    )


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            'version = "v1"',
            'version = "v1"\ncolour = 1',
            ": policy.colour: is not a known key",
        ),
        (
            'name = "build"',
            'name = "build"\nprice = 1',
            ": plans[0].price: is not a known key",
        ),
        ('owner = "gus"', 'owner = "gus"\nspend = 1', ": teams[1].spend: is not a known key"),
        ('id = "order-1"', 'id = "order-1"\nnote = 1', ": grants[0].note: is not a known key"),
        ('payer = "team"', 'payer = "team"\ny = 1', ": policy.rules[2].y: is not a known key"),
        ('owner = "gus"\n', "", ": teams[1].owner: is missing; add it"),
        ('credits = "400"', 'credits = "0"', ": plans[0].credits: plan build refills nothing"),
        ('credits = "400"', "credits = 400.5", ": plans[0].credits: credits must be a decimal"),
        ('credits = "400"', 'credits = "-4"', ": plans[0].credits: credits must be a decimal"),
        ('credits = "12.5"', 'credits = "0"', ": grants[0].credits: credits must be more than"),
        ('credits = "400"', 'credits = "400"\npool = "plam"', ": plans[0].pool: there is no pool"),
        ('plan = "build"', 'plan = "bulid"', ": teams[0].plan: there is no plan bulid; the plans"),
        ('plan = "build"', 'plan = "enterprise"', ": teams[0].plan: there is no plan enterprise"),
        ('owner = "ana"', 'owner = "olga"', ": teams[0].owner: olga is not a member; add olga"),
        ('["ana", "ben"]', '["ana", "ana"]', ": teams[0].members: lists ana twice"),
        ('["ana", "ben"]', '["ana", "*"]', ': teams[0].members: "*" includes everyone'),
        ('["ana", "ben"]', '["ana", "b n"]', ": teams[0].members[1]: String should match"),
        ('"Europe/Berlin"', '"Europe"', ": teams[0].time_zone: is not an IANA time zone"),
        ('"Europe/Berlin"', '"../UTC"', ": teams[0].time_zone: is not an IANA time zone"),
        ("2025-01-31", "2025-02-31", " is not TOML"),
        ("2025-01-31", "20250131", ": teams[0].anchor: "),
        ('team_id = "globex"', 'team_id = "acme"', ": teams[1].team_id: acme is declared twice"),
        ('name = "enterprise"', 'name = "build"', ": plans[1].name: build is declared twice"),
        ('"user:ana"', '"user:zoe"', ": grants[0].principal: zoe is not a member of any team"),
        ('"user:ana"', '"team:acme"', ": grants[0].principal: acme is not a team that pays"),
        ('"user:ana"', '"ana"', ": grants[0].principal: 'ana' is not a principal"),
        ('pool = "add_on"', 'pool = "contract"', ": grants[0].pool: there is no pool contract"),
        (
            'pool = "add_on"',
            'pool = "addon"',
            ": grants[0].pool: there is no pool addon; the pools",
        ),
        ('id = "order-1"', 'id = "refill:1"', ": grants[0].id: ids that begin with 'refill:'"),
        ('id = "order-1"', 'id = "plan:1"', ": grants[0].id: ids that begin with 'plan:'"),
        ('id = "order-1"', 'id = "expiry:1"', ": grants[0].id: ids that begin with 'expiry:'"),
        ('"purchase"', '"refill"', ": grants[0].cause: Input should be"),
        ('"purchase"', '"gift"\nexpires_in_days = 0', ": grants[0].expires_in_days: Input"),
        ('"purchase"', '"gift"\nexpires_at = 2030-01-01T00:00:00', ": grants[0].expires_at: "),
        (
            '"purchase"',
            '"gift"\nexpires_at = 2030-01-01T00:00:00Z\nexpires_in_days = 3',
            ": grants[0].expires_in_days: is given together with expires_at",
        ),
        ('payer = "owner"', 'payer = "user"', ": policy.rules[1]: only a run with trigger"),
        ('["team_api_key", "schedule"]', '["schedule"]', ": policy: 0 rules answer for"),
        ("[policy]", "[policy", " is not TOML: "),
    ],
)
def test_rejects_in_one_line_that_names_the_place(
    old: str, new: str, complaint: str, file: Path
) -> None:
    assert complaint_about(file, changed(old, new)).startswith(complaint)


def test_a_user_has_the_plan_of_one_team_only(file: Path) -> None:
    second = WORLD.split("[[teams]]")[1].replace("acme", "lab").replace('"ben"', '"cleo"')

    complaint = complaint_about(file, WORLD + "[[teams]]" + second)

    assert complaint.startswith(": teams[2].members: ana is already a member of acme")


def test_a_user_of_an_enterprise_may_be_a_member_of_a_self_serve_team_too(file: Path) -> None:
    file.write_text(changed('owner = "gus"\nmembers = "*"', 'owner = "ana"\nmembers = ["ana"]'))

    assert load_world(file).team_of_accounts()[ANA].team_id == "acme"


def test_a_grant_is_declared_once_per_principal(file: Path) -> None:
    same_id = 'id = "order-1"\npool = "add_on"\ncredits = "1"'
    of_ben = with_grants(f'principal = "user:ben"\n{same_id}')
    of_ana = with_grants(f'principal = "user:ana"\n{same_id}')

    file.write_text(of_ben)

    assert len(load_world(file).grants) == 2
    assert ": grants[1].id: user:ana order-1 is declared twice" in complaint_about(file, of_ana)


def test_a_principal_has_a_bounded_number_of_grants(file: Path) -> None:
    grants = [
        f'principal = "user:ana"\nid = "g{number}"\npool = "add_on"\ncredits = "1"'
        for number in range(200)
    ]
    file.write_text(with_grants(*grants[:199]))

    assert len(load_world(file).grants) == 200
    assert "has more than 200 grants" in complaint_about(file, with_grants(*grants))


def test_rejects_a_file_that_cannot_be_read(file: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot be read \(No such file or directory\)"):
        load_world(file)


def test_rejects_a_file_that_is_not_utf_8(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")

    with pytest.raises(CommandError, match="is not UTF-8"):
        load_world(file)


def test_the_tables_of_the_demo_are_ignored(file: Path) -> None:
    file.write_text(f"{WORLD}\n[[samples]]\nname = 1\n\n[[cards]]\n\n[[balances]]\n")

    assert len(load_world(file).teams) == 2
    assert complaint_about(file, f"{WORLD}\n[[sample]]\n").startswith(
        ": sample: is not a known key"
    )


def test_an_unknown_key_cannot_break_the_line(file: Path) -> None:
    line = complaint_about(file, changed('version = "v1"', 'version = "v1"\n"a\\nb" = 1'))

    assert line.startswith(": policy.a b: is not a known key")


RELOADING = """spend_cap_cents = 20000

[teams.auto_reload]
enabled = true
threshold = "100"
pack = "400"

[teams.payment]
provider = "stripe"
customer = "cus_1"
payment_method = "pm_1"
"""
PACKS = """
[[policy.packs]]
credits = "400"
price_cents = 2000
currency = "usd"

[[policy.packs]]
credits = "1000"
price_cents = 4500
currency = "usd"

[[plans]]
name = "build\""""
RELOADING_WORLD = WORLD.replace('\n[[plans]]\nname = "build"', PACKS, 1).replace(
    "anchor = 2025-01-31\n", f"anchor = 2025-01-31\n{RELOADING}", 1
)


def test_reads_packs_and_reload_settings_as_the_package_keeps_them(file: Path) -> None:
    file.write_text(RELOADING_WORLD)

    world = load_world(file)

    assert world.policy.packs[0] == Pack(microcredits=400_000_000, price_cents=2000, currency="usd")
    assert world.teams[0].auto_reload == AutoReload(
        enabled=True, threshold_microcredits=100_000_000, pack_microcredits=400_000_000
    )
    assert world.teams[0].payment == PaymentMethod(
        provider="stripe", customer="cus_1", payment_method="pm_1"
    )
    assert (world.teams[0].spend_cap_cents, world.teams[1].spend_cap_cents) == (20_000, 0)
    assert world.teams[1].auto_reload is None


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("spend_cap_cents = 20000", "", "teams[0].spend_cap_cents: auto_reload needs a spend cap"),
        (RELOADING[RELOADING.index("[teams.payment]") :], "", "payment: auto_reload needs a way"),
        ('pack = "400"', 'pack = "500"', "teams[0].auto_reload.pack: there is no pack of 500"),
        ('pack = "400"', 'pack = "400"\npool = "gold"', "teams[0].auto_reload.pool: there is no"),
        ('provider = "stripe"', 'provider = "invoice"', "teams[0].payment: an invoice names no"),
        ('payment_method = "pm_1"', "", "teams[0].payment: a stripe payment method needs"),
        (
            'credits = "1000"',
            'credits = "400"',
            "packs[1].credits: the pack of 400 credits in usd",
        ),
        ("spend_cap_cents = 20000", 'spend_cap_cents = 20000\ncurrency = "eur"', "packs in eur"),
        (
            "spend_cap_cents = 20000",
            'spend_cap_cents = 20000\ncurrency = "EUR"',
            "currency: String",
        ),
        ('threshold = "100"', 'threshold = "100"\nlimit = 1', "teams[0].auto_reload.limit: is no"),
    ],
)
def test_rejects_reloads_that_could_never_be_made(
    file: Path, old: str, new: str, complaint: str
) -> None:
    assert RELOADING_WORLD.count(old) >= 1, "the test changes what is there"

    assert complaint in complaint_about(file, RELOADING_WORLD.replace(old, new, 1))


RESERVING = 'pools = ["plan", "add_on"]\nreserve = "estimate"\ndefault_estimate = "75"\n'


def test_a_rule_says_how_its_runs_reserve(file: Path) -> None:
    file.write_text(
        changed(
            'pools = ["plan", "add_on"]\n',
            'pools = ["plan", "add_on"]\noverrun = "pause"\ngrace_credits = "2.5"\n',
        ).replace('pools = ["contract"]', f"{RESERVING.replace('plan', 'contract')}", 1)
    )

    rules = load_world(file).policy.rules

    assert [rule.reserve for rule in rules] == ["none", "none", "estimate"]
    assert (rules[0].overrun, rules[0].grace_microcredits) == ("pause", 2_500_000)
    assert rules[2].default_estimate_microcredits == 75_000_000
    assert rules[2].reservation_ttl_seconds == 3_600


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ('reserve = "all"', "policy.rules[0].reserve: Input should be 'none' or 'estimate'"),
        (
            'default_estimate = "-1"',
            "policy.rules[0].default_estimate: credits must be a decimal from 0",
        ),
        (
            'default_estimate = "1000000001"',
            "policy.rules[0].default_estimate: credits must be at most 1,000,000,000",
        ),
        (
            "reservation_ttl_seconds = 59",
            "policy.rules[0].reservation_ttl_seconds: Input should be greater than or equal to 60",
        ),
        (
            "reservation_ttl_seconds = 86401",
            "policy.rules[0].reservation_ttl_seconds: Input should be less than or equal to 86400",
        ),
        ('overrun = "kill"', "policy.rules[0].overrun: Input should be 'finish', 'pause' or 'st"),
        (
            'grace_credits = "5"',
            'policy.rules[0]: grace_credits go with overrun "pause" or "stop"; "finish" has no end',
        ),
        (
            "grace_microcredits = 5",
            "policy.rules[0].grace_microcredits: is not a known key; remove it or correct",
        ),
    ],
)
def test_a_rule_that_reserves_wrongly_is_rejected_at_its_key(
    file: Path, keys: str, complaint: str
) -> None:
    line = complaint_about(
        file, changed('pools = ["plan", "add_on"]', f'pools = ["plan", "add_on"]\n{keys}')
    )

    assert line.startswith(f": {complaint}")


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the fields of a model and of those below it."""
    for name, field in model.model_fields.items():
        yield name, field
        for below in (field.annotation, *get_args(field.annotation)):
            if isinstance(below, type) and issubclass(below, BaseModel):
                yield from fields_of(below)


def test_every_name_that_a_file_may_not_use_is_recognized() -> None:
    internal = {name for name, field in fields_of(World) if field.alias not in (None, name)}

    assert {"grace_microcredits", "declared_policy"} <= internal
    assert all(n.endswith("microcredits") or n.startswith("declared_") for n in internal)
