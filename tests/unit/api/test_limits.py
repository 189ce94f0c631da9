"""Limits over HTTP: asked for, read, changed; and who is shown what of them."""

from typing import Any

import pytest

from agent_credits.api import limits as api_limits
from agent_credits.billing.limit_standings import current_limits
from agent_credits.billing.limits import TeamLimit
from agent_credits.billing.teams import Team
from agent_credits.ledger.limits import LimitKey, LimitRow
from agent_credits.notices.limit_words import current_limit_to_json
from agent_credits.values.credits import parse_credits
from tests.api_world import ApiWorld, reservation, token
from tests.unit.builders import (
    ACME,
    ANA,
    BEN,
    BIGCORP,
    BIGCORP_TEAM,
    NOW,
    POLICY,
    grant_change,
    open_account,
    usage,
)
from tests.unit.limit_world import limit, team_with

EVENT = "application/cloudevents+json"
SETTINGS = "/v1/teams/acme/settings"
ADMIN: dict[str, Any] = {"door": "people", "bearer": token("olga", role="billing_admin")}
MEMBER: dict[str, Any] = {"door": "people", "bearer": token("ana")}
MONTH_ENDS = "2025-11-30T23:00:00Z"
BEN_RUNS = {"trigger": {"kind": "user", "user_id": "ben"}}


def world_of(*limits: TeamLimit, team: Team = ACME) -> ApiWorld:
    """Return a world in which ana, ben and bigcorp have 500 credits each."""
    world = ApiWorld()
    for principal, pool in ((ANA, "plan"), (BEN, "plan"), (BIGCORP, "contract")):
        change = grant_change(f"g-{principal.id}", credits="500", pool=pool, principal=principal)
        open_account(world.rows, change)
    world.rows.teams[team.team_id] = team_with(*limits, team=team, version=1)
    return world


def spend(world: ApiWorld, credits: str, **fields: Any) -> None:  # noqa: A002
    event = usage(f"e-{len(world.rows.stream)}", credits, **fields)
    assert world.call("POST", "/v1/events", event, content_type=EVENT).status == 200


def asked(**fields: Any) -> dict[str, Any]:
    body = reservation(**fields)
    del body["source"]
    return {"reserve": "estimate", **body}


def limit_checks(answer: dict[str, Any]) -> list[tuple[str, str]]:
    checks = [check for check in answer["checks"] if check["check"] == "limit"]
    return [(check["limit"]["scope"], check["result"]) for check in checks]


def standings_of(world: ApiWorld, path: str, **caller: Any) -> dict[tuple[str, str | None], Any]:
    listed = world.call("GET", path, **caller).json["limit_standings"]
    return {(one["scope"], one["id"]): one for one in listed}


class TestDecide:
    def test_each_limit_is_a_check_with_where_it_stands(self) -> None:
        world = world_of(limit("member", "100"), limit("team", "1000"))
        spend(world, "20")
        spend(world, "40", run="run-2", **BEN_RUNS)
        world.call("POST", "/v1/reservations", reservation("held", credits="30"))

        got = world.call("POST", "/v1/decide", asked(credits="50")).json

        assert (got["outcome"], got["allowed"]) == ("accepted", True)
        assert limit_checks(got) == [("team", "passed"), ("member", "passed")]
        assert [check["limit"] for check in got["checks"] if check["limit"]] == [
            {
                "scope": "team",
                "id": "acme",
                "period": "month",
                "action": "stop",
                "limit_credits": "1000",
                "used_credits": "60",
                "used_percent": 6,
                "reserved_credits": "30",
                "left_credits": "910",
                "resets_at": MONTH_ENDS,
            },
            {
                "scope": "member",
                "id": "ana",
                "period": "month",
                "action": "stop",
                "limit_credits": "100",
                "used_credits": "20",
                "used_percent": 20,
                "reserved_credits": "30",
                "left_credits": "50",
                "resets_at": MONTH_ENDS,
            },
        ]

    def test_the_first_limit_that_refuses_is_named_as_a_reservation_names_it(self) -> None:
        world = world_of(
            limit("project", "5000", id="web"), limit("member", "70"), limit("run", "10", "run")
        )

        got = world.call("POST", "/v1/decide", asked(project_id="web")).json

        assert (got["outcome"], got["allowed"]) == ("insufficient", False)
        assert [(check["check"], check["result"]) for check in got["checks"]] == [
            ("team_and_user", "passed"),
            ("account", "passed"),
            ("reservations", "passed"),
            ("limit", "passed"),
            ("limit", "failed"),
            ("limit", "not_reached"),
            ("credits", "not_reached"),
        ]
        failed = got["checks"][4]
        assert (failed["error"], failed["detail"]) == ("insufficient_credits", "limit_reached")
        made = world.call("POST", "/v1/reservations", reservation(project_id="web"))
        assert made.status == 403
        names = ("cause", "scope", "limit", "available_credits", "resets_at")
        assert {n: got["problem"][n] for n in names} == {n: made.json[n] for n in names}
        assert (made.json["cause"], made.json["scope"]) == ("limit_reached", "member")

    @pytest.mark.parametrize("credits", ["70", "70.000001"])
    @pytest.mark.parametrize("reserve", ["none", "estimate"])
    def test_the_room_of_a_limit_decides_to_the_microcredit(
        self,
        credits: str,  # noqa: A002
        reserve: str,
    ) -> None:
        world = world_of(limit("member", "70"))

        got = world.call("POST", "/v1/decide", asked(credits=credits, reserve=reserve)).json

        assert got["allowed"] is (credits == "70")

    def test_what_a_run_drew_before_counts_under_the_limit_of_each_run(self) -> None:
        world = world_of(limit("run", "100", "run"))
        # So many entries that those of the run are on a page that is full, and not on the row.
        for _ in range(20):
            spend(world, "2")
        for number in range(10):
            spend(world, "1", run=f"other-{number}")
        assert not any(e.identity.subject == "run-1" for e in world.rows.accounts[ANA].entries)

        got = world.call("POST", "/v1/decide", asked(credits="60.000001")).json

        assert limit_checks(got) == [("run", "failed")]
        assert got["checks"][3]["limit"]["used_credits"] == "40"
        assert got["checks"][3]["limit"]["resets_at"] is None

    def test_a_limit_that_only_warns_passes_and_shows_that_nothing_is_left(self) -> None:
        world = world_of(limit("member", "10", action="warn"))

        got = world.call("POST", "/v1/decide", asked(credits="400")).json

        assert got["allowed"] is True
        (check,) = (check for check in got["checks"] if check["check"] == "limit")
        assert (check["result"], check["limit"]["action"]) == ("passed", "warn")

    def test_limits_are_shown_as_not_reached_behind_a_check_that_failed(self) -> None:
        world = world_of(limit("team", "100"))
        world.call("POST", "/v1/reservations", reservation("taken", credits="1"))

        got = world.call("POST", "/v1/decide", asked(run_id="taken")).json

        assert got["outcome"] == "rejected"
        assert limit_checks(got) == [("team", "not_reached")]
        assert got["checks"][3]["limit"]["reserved_credits"] == "1"

    def test_a_decision_writes_neither_the_account_nor_the_row_of_a_limit(self) -> None:
        world = world_of(limit("team", "100"))
        spend(world, "1")
        before = (len(world.rows.stream), len(world.rows.limit_stream))

        world.call("POST", "/v1/decide", asked(credits="50"))

        assert (len(world.rows.stream), len(world.rows.limit_stream)) == before


class TestAccount:
    def test_the_limits_of_its_runs_are_shown_and_what_it_used_of_them_itself(self) -> None:
        world = world_of(
            limit("team", "1000"),
            limit("project", "300"),
            limit("member", "100"),
            limit("run", "50", "run"),
        )
        spend(world, "20", project_id="web")
        spend(world, "40", run="run-2", project_id="api", **BEN_RUNS)

        shown = standings_of(world, "/v1/accounts/user:ana", **MEMBER)

        assert [*shown] == [
            ("team", "acme"),
            ("project", None),
            ("project", "web"),
            ("member", "ana"),
            ("run", None),
        ]
        of_team = shown["team", "acme"]
        assert (of_team["used_credits"], of_team["used_by_account_credits"]) == ("60", "20")
        assert shown["project", "web"]["left_credits"] == "280"
        assert shown["member", "ana"]["used_by_account_credits"] == "20"
        each_run = shown["run", None]
        assert (each_run["limit_credits"], each_run["used_credits"]) == ("50", None)
        assert {one["team_id"] for one in shown.values()} == {"acme"}

    def test_a_limit_holds_for_an_account_that_has_not_run_anything(self) -> None:
        world = world_of(limit("member", "100"), limit("team", "1000"))

        shown = standings_of(world, "/v1/accounts/user:ana", **MEMBER)

        assert [*shown] == [("team", "acme"), ("member", "ana")]
        assert shown["member", "ana"]["left_credits"] == "100"
        assert shown["member", "ana"]["used_by_account_credits"] == "0"

    def test_what_a_member_sees_names_no_other_member(self) -> None:
        world = world_of(
            limit("team", "1000"),
            limit("member", "100"),
            limit("member", "77", id="ben"),
            limit("member", "5", "run", id="ben"),
        )
        spend(world, "20")
        spend(world, "40", run="run-2", **BEN_RUNS)
        world.call("POST", "/v1/reservations", reservation("r-3", credits="3", **BEN_RUNS))

        paths = (
            "/v1/accounts/user:ana",
            "/v1/accounts/user:ana/ledger",
            "/v1/accounts/user:ana/reservations",
        )
        texts = [world.call("GET", path, **MEMBER).text for path in paths]
        texts.append(world.call("POST", "/v1/decide", asked(credits="5000"), **MEMBER).text)
        texts.append(world.call("POST", "/v1/decide", asked(credits="5"), **MEMBER).text)

        assert not [text for text in texts if "ben" in text]

    def test_who_is_not_of_the_team_learns_nothing_of_its_limits(self) -> None:
        world = world_of(limit("team", "1000"), limit("member", "100"))
        spend(world, "20")
        world.call("POST", "/v1/reservations", reservation("r-2", credits="3"))
        # Ana is a member of another team as well, whose admin may see her account.
        other = team_with(limit("member", "9"), team=ACME, team_id="globex")
        world.rows.teams["globex"] = other
        admin: dict[str, Any] = {
            "door": "people",
            "bearer": token("gus", role="billing_admin", teams=("globex",)),
        }
        paths = [f"/v1/accounts/user:ana{part}" for part in ("", "/ledger", "/reservations")]

        seen = [world.call("GET", path, **admin) for path in paths]

        assert [got.status for got in seen] == [200] * 3
        (own,) = seen[0].json["limit_standings"]
        assert (own["team_id"], own["limit_credits"], own["used_credits"]) == ("globex", "9", "0")
        assert seen[2].json["reservations"] == []
        assert not [got.text for got in seen if "acme" in got.text]
        assert not [got.text for got in seen if "run-1" in got.text or "r-2" in got.text]

    def test_where_the_team_pays_its_account_shows_what_each_member_used(self) -> None:
        world = world_of(limit("member", "100"), limit("team", "400"), team=BIGCORP_TEAM)
        for who in ("ana", "zoe"):
            trigger = {"kind": "user", "user_id": who}
            spend(world, "30", run=f"run-{who}", team_id="bigcorp", trigger=trigger)

        shown = standings_of(world, "/v1/accounts/team:bigcorp")

        used = {name: one["used_by_account_credits"] for name, one in shown.items()}
        assert used == {
            ("team", "bigcorp"): "60",
            ("member", None): None,
            ("member", "ana"): "30",
            ("member", "zoe"): "30",
        }

    def test_a_balance_without_limits_that_span_accounts_reads_no_row_of_a_limit(self) -> None:
        world = world_of(limit("member", "100"))
        spend(world, "20")
        asked_for: list[LimitKey] = []
        read_limits = world.rows.read_limits

        def counted(keys: Any) -> Any:
            asked_for.extend(keys)
            return read_limits(keys)

        world.rows.read_limits = counted  # type: ignore[method-assign]

        assert standings_of(world, "/v1/accounts/user:ana")["member", "ana"]["left_credits"] == "80"
        assert asked_for == []


class TestEntries:
    def test_an_entry_shows_what_it_counted_and_where_the_limit_stood_that_refused(self) -> None:
        world = world_of(limit("member", "10"), limit("team", "1000"))
        spend(world, "4")
        spend(world, "9")

        run = world.call("GET", "/v1/runs/run-1", query={"principal": "user:ana"}).json
        ledger = world.call("GET", "/v1/accounts/user:ana/ledger").json

        first, second = run["entries"]
        assert first["limits_counted"] == [
            {"scope": s, "id": i, "period": "month", "credits": "4", "ends_at": MONTH_ENDS}
            for s, i in (("team", "acme"), ("member", "ana"))
        ]
        assert (first["limit_standings"], second["outcome"]) == ([], "insufficient")
        assert [(one["scope"], one["used_credits"]) for one in second["limit_standings"]] == [
            ("member", "4"),
            ("team", "4"),
        ]
        assert second["limit_standings"][0]["left_credits"] == "6"
        assert [e for e in ledger["entries"] if e["type"] == "agent_run.usage"] == [second, first]


class TestTeam:
    def test_the_limits_are_shown_as_declared_and_where_they_stand(self) -> None:
        world = world_of(limit("team", "1000", raise_until=NOW), limit("member", "100"))
        spend(world, "20")
        spend(world, "40", run="run-2", **BEN_RUNS)

        got = world.call("GET", "/v1/teams/acme", **ADMIN).json

        assert [(one["scope"], one["credits"], one["raise_until"]) for one in got["limits"]] == [
            ("team", "1000", "2025-11-21T10:00:00Z"),
            ("member", "100", None),
        ]
        standings = got["limit_standings"]
        assert [(o["scope"], o["id"], o["used_credits"]) for o in standings] == [
            ("team", "acme", "60"),
            ("member", None, None),
            ("member", "ben", "40"),
            ("member", "ana", "20"),
        ]
        assert got["limit_standings_left_out"] == 0

    def test_standings_are_those_that_the_commands_print(self) -> None:
        world = world_of(limit("team", "1000"), limit("member", "100", warn_at=(50,)))
        spend(world, "20")
        team = world.rows.teams["acme"]

        got = world.call("GET", "/v1/teams/acme", **ADMIN).json

        printed = current_limits(world.rows, team, POLICY, world.rows.accounts.values(), NOW)
        assert got["limit_standings"] == [current_limit_to_json(one) for one in printed.limits]

    def test_of_more_than_an_answer_shows_those_used_least_are_left_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_limits, "STANDINGS_SHOWN_MAX", 2)
        world = world_of(limit("member", "100"), limit("team", "1000"))
        spend(world, "30")
        spend(world, "40", run="run-2", **BEN_RUNS)

        got = world.call("GET", "/v1/teams/acme", **ADMIN).json

        assert [one["id"] for one in got["limit_standings"]] == [None, "ben"]
        assert got["limit_standings_left_out"] == 2

    def test_a_limit_row_of_another_team_is_not_counted(self) -> None:
        world = world_of(limit("team", "1000"))
        key = LimitKey("globex", "team", "globex", "month")
        world.rows.limits[key] = LimitRow(key, NOW, drawn_microcredits=parse_credits("7"))

        (one,) = world.call("GET", "/v1/teams/acme", **ADMIN).json["limit_standings"]

        assert one["used_credits"] == "0"


def patch(world: ApiWorld, *limits: dict[str, Any]) -> Any:
    return world.call("PATCH", SETTINGS, {"limits": [*limits]}, **ADMIN)


class TestSettings:
    def test_limits_are_replaced_and_recorded_from_what_to_what(self) -> None:
        world = world_of(limit("team", "1000"))

        got = patch(
            world,
            {"scope": "member", "period": "day", "credits": "12.5", "warn_at": [50]},
            {
                "scope": "team",
                "period": "month",
                "credits": 2000,
                "action": "warn",
                "raise_until": "2025-12-01T01:00:00+01:00",
            },
        )

        assert got.status == 200
        team = {
            "scope": "team",
            "id": None,
            "period": "month",
            "credits": "2000",
            "action": "warn",
            "warn_at": [70, 90, 100],
            "raise_until": "2025-12-01T00:00:00Z",
        }
        member = {
            "scope": "member",
            "id": None,
            "period": "day",
            "credits": "12.5",
            "action": "stop",
            "warn_at": [50],
            "raise_until": None,
        }
        assert got.json["limits"] == [team, member]
        (entry,) = got.json["audit"]
        before = {**team, "credits": "1000", "action": "stop", "raise_until": None}
        assert entry["changes"] == [
            {"field": "limits", "before": before, "after": team},
            {"field": "limits", "before": None, "after": member},
        ]
        assert (entry["who"], entry["action"]) == ("user:olga", "settings.changed")

    def test_a_raise_lets_the_next_run_through_at_once(self) -> None:
        world = world_of(limit("member", "10"))
        refused = world.call("POST", "/v1/reservations", reservation())

        patch(world, {"scope": "member", "period": "month", "credits": "100"})

        made = world.call("POST", "/v1/reservations", reservation("run-2"))
        assert (refused.status, made.status) == (403, 201)

    def test_sending_what_was_read_back_in_another_order_changes_nothing(self) -> None:
        world = world_of(
            limit("team", "1000"), limit("member", "5", "day", id="ana"), limit("run", "9", "run")
        )
        before = world.rows.teams["acme"]
        read = world.call("GET", "/v1/teams/acme", **ADMIN).json["limits"]

        got = patch(world, *reversed(read))

        assert (got.status, got.json["audit"]) == (200, [])
        assert world.rows.teams["acme"] == before

    def test_an_empty_list_removes_all_limits_and_other_settings_leave_them(self) -> None:
        world = world_of(limit("team", "1000"))

        kept = world.call("PATCH", SETTINGS, {"spend_cap_cents": 5}, **ADMIN).json
        removed = patch(world).json

        assert (len(kept["limits"]), removed["limits"]) == (1, [])
        assert [change["field"] for change in kept["audit"][0]["changes"]] == ["spend_cap_cents"]
        assert removed["audit"][0]["changes"] == [
            {"field": "limits", "before": kept["limits"][0], "after": None}
        ]

    def test_a_limit_of_zero_stops_every_run(self) -> None:
        world = world_of()

        patch(world, {"scope": "team", "period": "month", "credits": "0"})

        assert world.call("POST", "/v1/reservations", reservation()).status == 403

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"scope": "galaxy"}, "limits.0.scope"),
            ({"period": "year"}, "limits.0.period"),
            ({"credits": "-1"}, "limits.0.credits"),
            ({"credits": 1.5}, "limits.0.credits"),
            ({"credits": "1000000001"}, "limits.0.credits"),
            ({"action": "pause"}, "limits.0.action"),
            ({"warn_at": [101]}, "limits.0"),
            ({"warn_at": [90, 70]}, "limits.0"),
            ({"warn_at": [*range(1, 12)]}, "limits.0.warn_at"),
            ({"raise_until": "tomorrow"}, "limits.0.raise_until"),
            ({"raise_until": "2025-12-01T00:00:00"}, "limits.0.raise_until"),
            ({"id": "acme"}, "limits.0"),
            ({"scope": "member", "id": "eve"}, "limits.0.id"),
            ({"scope": "member", "id": "a b"}, "limits.0.id"),
            ({"scope": "run"}, "limits.0"),
            ({"period": "run"}, "limits.0"),
            ({"microcredits": 5}, "limits.0.microcredits"),
        ],
    )
    def test_a_limit_that_will_not_do_is_named_and_nothing_changes(
        self, body: dict[str, Any], field: str
    ) -> None:
        world = world_of(limit("team", "1000"))
        before = world.rows.teams["acme"]

        got = patch(world, {"scope": "team", "period": "month", "credits": "5", **body})

        assert (got.status, got.json["errors"][0]["field"]) == (422, field)
        assert world.rows.teams["acme"] == before
        assert world.rows.audit == {}

    def test_two_limits_of_the_same_runs_and_too_many_are_refused(self) -> None:
        world = world_of()
        one = {"scope": "project", "period": "month", "credits": "5"}

        twice = patch(world, one, one)
        many = patch(world, *({**one, "id": f"p-{number}"} for number in range(101)))

        assert [twice.status, many.status] == [422, 422]
        assert twice.json["errors"][0]["complaint"].startswith("has two limits of each project")
        assert many.json["errors"][0]["field"] == "limits"

    def test_the_limit_of_a_member_who_has_left_may_stay(self) -> None:
        world = world_of(limit("member", "5", id="ben"))
        team = world.rows.teams["acme"]
        left = team.model_copy(update={"members": frozenset({"ana", "olga"})})
        world.rows.teams["acme"] = left

        got = patch(world, {"scope": "member", "id": "ben", "period": "month", "credits": "4"})

        assert (got.status, got.json["limits"][0]["credits"]) == (200, "4")
