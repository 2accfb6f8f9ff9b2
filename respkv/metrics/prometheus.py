"""The registry as Prometheus' text format, through prometheus_client.

Beside the rows of ``METRICS``, each command has its calls, time, failures and latency percentiles under
the names of redis_exporter. Times are seconds but for those whose names say ``usec``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from respkv.metrics.histogram import Histogram
from respkv.metrics.registry import Metric as Row
from respkv.metrics.registry import MetricKind, Number, Registry

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
QUANTILES: Final = (50.0, 90.0, 99.0, 99.9)
BUCKET_ENDS_US: Final = (
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 10_000_000,
)  # fmt: skip


class _RegistryCollector(Collector):
    """Asks the registry anew at each scrape."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("redis_up", "The server answers", value=1)
        yield up
        for row, figure in self._registry.collect():
            yield _family(row, figure)
        yield from _commands(self._registry)


def _family(row: Row, figure: Number | Mapping[str, Number] | Histogram) -> Metric:
    """One row as a family of samples."""
    if isinstance(figure, Histogram):
        return _histogram(row.name, row.help, figure)
    labels = [row.label] if row.label else []
    family: CounterMetricFamily | GaugeMetricFamily
    if row.kind is MetricKind.COUNTER:
        family = CounterMetricFamily(row.name, row.help, labels=labels)
    else:
        family = GaugeMetricFamily(row.name, row.help, labels=labels)
    if isinstance(figure, Mapping):
        for label, value in figure.items():
            family.add_metric([row.prefix + label], value * row.scale)
    else:
        family.add_metric([], figure * row.scale)
    return family


def _histogram(name: str, help: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, help)
    counts = histogram.cumulative(BUCKET_ENDS_US)
    buckets = [(f"{end / 1e6:.10g}", count) for end, count in zip(BUCKET_ENDS_US, counts)]
    family.add_metric([], [*buckets, ("+Inf", histogram.count)], sum_value=histogram.total_us / 1e6)
    return family


def _commands(registry: Registry) -> Iterator[Metric]:
    """The figures of each command that has any."""
    calls = CounterMetricFamily("redis_commands_total", "Calls by command", labels=["cmd"])
    seconds = CounterMetricFamily(
        "redis_commands_duration_seconds_total", "Time in each command", labels=["cmd"]
    )
    failed = CounterMetricFamily(
        "redis_commands_failed_calls_total", "Calls that answered an error", labels=["cmd"]
    )
    rejected = CounterMetricFamily(
        "redis_commands_rejected_calls_total", "Calls refused before they ran", labels=["cmd"]
    )
    percentiles = Metric("redis_latency_percentiles_usec", "Time of executing each command", "summary")
    for name in sorted(registry.commands):
        stats = registry.commands[name]
        if not (stats.calls or stats.rejected):
            continue
        calls.add_metric([name], stats.calls)
        seconds.add_metric([name], stats.usec / 1e6)
        failed.add_metric([name], stats.failed)
        rejected.add_metric([name], stats.rejected)
        histogram = stats.histogram
        if histogram.count:
            for percent, value in zip(QUANTILES, histogram.percentiles(QUANTILES)):
                labels = {"cmd": name, "quantile": f"{percent / 100:g}"}
                percentiles.add_sample(percentiles.name, labels, value)
            percentiles.add_sample(percentiles.name + "_sum", {"cmd": name}, histogram.total_us)
            percentiles.add_sample(percentiles.name + "_count", {"cmd": name}, histogram.count)
    yield from (calls, seconds, failed, rejected, percentiles)


def render(registry: Registry) -> bytes:
    """The text of one scrape. O(metrics + commands x buckets), about 2 ms for 50 commands."""
    collectors = CollectorRegistry(auto_describe=False)
    collectors.register(_RegistryCollector(registry))
    return generate_latest(collectors)
