"""`[[teams.limits]]` in the file that `agent-credits apply` takes."""

from pathlib import Path

import pytest

from agent_credits.billing.limits import TEAM_LIMITS_MAX
from agent_credits_cli.limit_settings import limit_text, place_text
from tests.unit.cli.test_world import changed, complaint_about, load_world

MONTHLY = 'scope = "project"\nperiod = "month"\ncredits = "500"'


def with_limits(*limits: str) -> str:
    tables = "".join(f"\n[[teams.limits]]\n{limit}\n" for limit in limits)
    return changed("anchor = 2025-01-31\n", f"anchor = 2025-01-31\n{tables}")


def read(file: Path, *limits: str) -> list[tuple[str, str]]:
    file.write_text(with_limits(*limits))
    team = load_world(file).teams[0]
    return [(place_text(*limit.place), limit_text(limit)) for limit in team.limits]


def test_reads_the_limits_of_a_team_from_the_widest_to_the_narrowest(tmp_path: Path) -> None:
    limits = read(
        tmp_path / "world.toml",
        'scope = "run"\nperiod = "run"\ncredits = "20"\nwarn_at = []',
        'scope = "member"\nid = "ben"\nperiod = "day"\ncredits = "0"',
        'scope = "member"\nperiod = "day"\ncredits = 50\naction = "warn"\nwarn_at = [80]',
        'scope = "project"\nid = "web"\nperiod = "run"\ncredits = "5"',
        MONTHLY,
        'scope = "team"\nperiod = "week"\ncredits = "90.5"\n'
        "raise_until = 2026-12-01T00:00:00+01:00",
    )

    assert limits == [
        (
            "the team per week",
            "90.5 credits, stop, warn at 70%, 90%, 100%, raised until 2026-11-30 23:00 UTC",
        ),
        ("each project per month", "500 credits, stop, warn at 70%, 90%, 100%"),
        ("each run of project web", "5 credits, stop, warn at 70%, 90%, 100%"),
        ("each member per day", "50 credits, warn, warn at 80%"),
        ("member ben per day", "0 credits, stop, warn at 70%, 90%, 100%"),
        ("each run", "20 credits, stop"),
    ]


def test_a_team_without_limits_has_none(tmp_path: Path) -> None:
    assert read(tmp_path / "world.toml") == []


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        (
            MONTHLY.replace('"500"', "0.5"),
            ".credits: credits must be a decimal string",
        ),
        (MONTHLY.replace('"500"', '"-1"'), ".credits: credits must be"),
        (MONTHLY.replace("credits", "microcredits"), ".microcredits: is not a known key"),
        (MONTHLY.replace('credits = "500"', ""), ".credits: is missing; add it"),
        (MONTHLY.replace("project", "group"), ".scope: Input should be 'team', 'project'"),
        (MONTHLY.replace("month", "year"), ".period: Input should be 'run', 'day'"),
        (f"{MONTHLY}\nhard = true", ".hard: is not a known key; remove it"),
        (f'{MONTHLY}\naction = "block"', ".action: Input should be 'stop' or 'warn'"),
        (f"{MONTHLY}\nwarn_at = [90, 70]", ": must list each percentage of warn_at once, in asc"),
        (f"{MONTHLY}\nwarn_at = [70, 101]", ": warns at percentages from 1 to 100"),
        (f"{MONTHLY}\nraise_until = 2026-12-01", ".raise_until: "),
        (
            'scope = "team"\nid = "acme"\nperiod = "day"\ncredits = "1"',
            ': has scope "team", which takes no id',
        ),
        (
            'scope = "run"\nperiod = "day"\ncredits = "1"',
            ': has scope "run", which goes with period "run"',
        ),
        (
            'scope = "team"\nperiod = "run"\ncredits = "1"',
            ': limits each run of the team; write scope "run"',
        ),
        (
            'scope = "member"\nid = "zoe"\nperiod = "day"\ncredits = "1"',
            ".id: zoe is not a member; add the user to the members",
        ),
    ],
)
def test_rejects_an_invalid_limit_and_names_its_place(
    limit: str, complaint: str, tmp_path: Path
) -> None:
    line = complaint_about(tmp_path / "world.toml", with_limits(limit))

    assert line.startswith(f": teams[0].limits[0]{complaint}")


def test_rejects_two_limits_of_the_same_runs(tmp_path: Path) -> None:
    web = 'scope = "project"\nid = "web"\nperiod = "month"\ncredits = "5"'

    line = complaint_about(tmp_path / "world.toml", with_limits(web, MONTHLY, web))

    assert line == (
        ": teams[0].limits[2]: the limit of project web per month is declared twice; remove one"
    )


def test_rejects_more_limits_than_an_event_is_compared_with(tmp_path: Path) -> None:
    many = [
        f'scope = "project"\nid = "p{number}"\nperiod = "day"\ncredits = "1"'
        for number in range(TEAM_LIMITS_MAX + 1)
    ]

    line = complaint_about(tmp_path / "world.toml", with_limits(*many))

    assert line.startswith(": teams[0].limits: ")
    assert f"at most {TEAM_LIMITS_MAX} items" in line


def test_everyone_may_be_a_member_with_a_limit(tmp_path: Path) -> None:
    limit = '\n[[teams.limits]]\nscope = "member"\nid = "zoe"\nperiod = "day"\ncredits = "1"\n'
    file = tmp_path / "world.toml"
    file.write_text(changed("anchor = 2025-01-01\n", f"anchor = 2025-01-01\n{limit}"))

    (declared,) = load_world(file).teams[1].limits

    assert declared.id == "zoe"


def test_the_limits_of_the_guide_can_be_declared(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "how-to" / "limits.md").read_text()
    declared = guide.partition("```toml\n")[2].partition("```")[0]

    limits = read(tmp_path / "world.toml", declared.removeprefix("[[teams.limits]]"))

    assert [place for place, _ in limits] == [
        "the team per month",
        "each project per week",
        "project web per week",
        "each member per day",
        "each run",
    ]
