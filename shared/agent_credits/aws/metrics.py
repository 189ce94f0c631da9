"""What a function counts: metrics of its stack, some by one more dimension."""

from collections.abc import Mapping

from aws_lambda_powertools import Metrics, single_metric
from aws_lambda_powertools.metrics import MetricUnit


def metrics_of(stack: str) -> Metrics:
    """Return a function's metrics. Those of other stacks in the account have the same names."""
    metrics = Metrics()
    metrics.set_default_dimensions(stack=stack)
    return metrics


def add_counts(metrics: Metrics, counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        metrics.add_metric(name, MetricUnit.Count, count)


def add_counts_by(metrics: Metrics, name: str, dimension: str, counts: Mapping[str, int]) -> None:
    """Emit a count for each value of the dimension.

    CloudWatch charges for each value, so there must be few of them. A line of the embedded metric
    format has one value for a dimension, so each count is a line of its own.
    """
    for value, count in counts.items():
        with single_metric(
            name, MetricUnit.Count, count, default_dimensions=metrics.default_dimensions
        ) as metric:
            metric.add_dimension(dimension, value)
