"""Fixed estimates on the trace: what is counted as a false rejection, and how it grows."""

from tests.benchmarks.false_rejections import count_false_rejections


def test_larger_estimates_reject_more_runs_that_would_have_fitted_and_overdraw_fewer() -> None:
    mean, high, highest = count_false_rejections(1_200)

    assert mean.runs == 1_200
    assert mean.estimate_microcredits < high.estimate_microcredits < highest.estimate_microcredits
    assert 0 < mean.rejected < high.rejected <= highest.rejected
    assert mean.overdrawn > high.overdrawn > highest.overdrawn > 0
