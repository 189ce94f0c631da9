"""When the alarms about postponed messages ring, by the times at which messages come back."""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest

from agent_credits.notices.slack_posts import SlackUnavailable, retry_in_seconds
from agent_credits.values.errors import SecretUnavailable
from tests.template import load_template

RESOURCES = load_template()["Resources"]
MINUTE = 60
# A message is first received anywhere within a minute of CloudWatch.
OFFSETS = range(MINUTE)


def rings_after(alarm: str, postponed_at: Iterable[int]) -> int | None:
    """Return the minute in which the alarm first rings, None if it never does."""
    properties: dict[str, Any] = RESOURCES[alarm]["Properties"]
    assert (properties["Period"], properties["Threshold"]) == (MINUTE, 0)
    window, needed = properties["EvaluationPeriods"], properties["DatapointsToAlarm"]
    breaching = sorted({second // MINUTE for second in postponed_at})
    for first, last in zip(breaching, breaching[needed - 1 :], strict=False):
        if last - first < window:
            return last
    return None


def receives_of_an_event() -> list[int]:
    """Return when an event is received that is postponed each time."""
    properties = RESOURCES["AgentRunsQueue"]["Properties"]
    receives = load_template()["Parameters"]["MaxReceiveCount"]["MinValue"]
    return [number * properties["VisibilityTimeout"] for number in range(receives)]


def receives_of_a_notice(reason: Exception) -> list[int]:
    """Return when a notice is received that Slack does not accept each time."""
    receives = RESOURCES["SlackQueue"]["Properties"]["RedrivePolicy"]["maxReceiveCount"]
    waits = [retry_in_seconds(reason, number) for number in range(1, receives)]
    return [0, *itertools.accumulate(waits)]


def shifted(seconds: Iterable[int], offset: int) -> list[int]:
    return [offset + second for second in seconds]


@pytest.mark.parametrize("alarm", ["EventsPostponedAlarm", "SlackPostponedAlarm"])
def test_it_rings_in_the_third_minute_of_a_busy_stack(alarm: str) -> None:
    assert rings_after(alarm, range(0, 10 * MINUTE, 5)) == 2


@pytest.mark.parametrize("alarm", ["EventsPostponedAlarm", "SlackPostponedAlarm"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_fault_that_is_over_within_a_minute_never_rings(alarm: str, offset: int) -> None:
    assert rings_after(alarm, shifted(range(0, MINUTE, 5), offset)) is None


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_single_event_rings_within_ten_minutes(offset: int) -> None:
    minute = rings_after("EventsPostponedAlarm", shifted(receives_of_an_event(), offset))

    assert minute is not None
    assert minute < 10


@pytest.mark.parametrize("reason", [SecretUnavailable("no URL"), SlackUnavailable("no answer")])
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_single_notice_rings_within_five_minutes(reason: Exception, offset: int) -> None:
    minute = rings_after("SlackPostponedAlarm", shifted(receives_of_a_notice(reason), offset))

    assert minute is not None
    assert minute < 5


def test_the_alarm_about_slack_lasts_until_the_notice_is_set_aside() -> None:
    receives = receives_of_a_notice(SecretUnavailable("no URL"))
    properties = RESOURCES["SlackPostponedAlarm"]["Properties"]
    begins = rings_after("SlackPostponedAlarm", receives)
    assert begins is not None

    for minute in range(begins, receives[-1] // MINUTE):
        window = range(minute - properties["EvaluationPeriods"] + 1, minute + 1)
        breaching = {second // MINUTE for second in receives} & set(window)
        assert len(breaching) >= properties["DatapointsToAlarm"]


def test_a_sweep_rings_with_the_second_failure_of_its_one_message() -> None:
    alarm = RESOURCES["SweepErrorsAlarm"]["Properties"]
    retried_after = RESOURCES["SweepsQueue"]["Properties"]["VisibilityTimeout"]
    attempt = RESOURCES["Sweep"]["Properties"]["Timeout"]

    assert (alarm["Threshold"], alarm["EvaluationPeriods"]) == (1, 1)
    # The first attempt may fail at once and the second time out, in the middle of a minute.
    assert retried_after + attempt + MINUTE <= alarm["Period"]
