"""The samples of a file are read as strictly as the rest of the world."""

from pathlib import Path

import pytest

from agent_credits_cli.errors import CommandError
from agent_credits_demo.sample_world import load_sample_world
from tests.unit.cli.test_world import WORLD

SAMPLE_WORLD = f"""{WORLD}
[[cards]]
team_id = "acme"
number = "4242424242424242"

[[samples]]
name = "first"
shows = "Something."
files = ["events/first.json"]
expect = [{{ event = "e1", outcome = "finished" }}]

[[balances]]
principal = "user:ana"
pools = {{ plan = "400" }}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "world.toml"


def test_reads_the_samples_beside_the_world(file: Path) -> None:
    file.write_text(SAMPLE_WORLD)

    world = load_sample_world(file)

    assert [team.team_id for team in world.teams] == ["acme", "globex"]
    assert [card.team_id for card in world.cards] == ["acme"]
    assert [(sample.name, sample.expect[0].outcome) for sample in world.samples] == [
        ("first", "finished")
    ]
    assert [(str(b.principal), b.pools) for b in world.balances] == [
        ("user:ana", {"plan": 400_000_000})
    ]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "first"', 'name = "first"\nx = 1', ": samples[0].x: is not a known key"),
        (
            'name = "first"',
            'name = "first"\nafter = ["x"]',
            ": samples[0].after: 'x' is not a sample",
        ),
        (
            '"finished"',
            '"rejected"',
            ": samples[0].expect[0].code: belongs to the outcome rejected",
        ),
        ('team_id = "acme"\nnumber', 'team_id = "no"\nnumber', ": cards[0].team_id: there is no"),
        (
            '"user:ana"\npools = { ',
            '"user:zoe"\npools = { ',
            ": balances[0].principal: zoe is not a",
        ),
        ('owner = "gus"', 'owner = "gus"\nspend = 1', ": teams[1].spend: is not a known key"),
        ('owner = "ana"', 'owner = "olga"', ": teams[0].owner: olga is not a member; add olga"),
    ],
)
def test_rejects_in_one_line_that_names_the_place(
    old: str, new: str, complaint: str, file: Path
) -> None:
    assert SAMPLE_WORLD.count(old) == 1, "the test changes what is there"
    file.write_text(SAMPLE_WORLD.replace(old, new))

    with pytest.raises(CommandError) as refused:
        load_sample_world(file)

    assert str(refused.value).startswith(f"{file}{complaint}")


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("[[cards]]", "cards[1].team_id: acme is declared twice"),
        ("[[samples]]", "samples[1].name: first is declared twice"),
        ("[[balances]]", "balances[1].principal: user:ana is declared twice"),
    ],
)
def test_nothing_is_declared_twice(table: str, complaint: str, file: Path) -> None:
    again = SAMPLE_WORLD[SAMPLE_WORLD.index(table) :].split("\n\n")[0]
    file.write_text(f"{SAMPLE_WORLD}\n{again}\n")

    with pytest.raises(CommandError, match="declared twice") as refused:
        load_sample_world(file)

    assert complaint in str(refused.value)
