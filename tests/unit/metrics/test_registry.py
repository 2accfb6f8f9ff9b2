from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from respkv.metrics.prometheus import BUCKET_ENDS_US, render
from respkv.metrics.registry import (
    ERROR_CODES_MAX,
    ERROR_CODES_OVERFLOW,
    METRICS,
    SAMPLE_INTERVAL_US,
    SAMPLES,
    MetricKind,
    Registry,
)


def samples(registry: Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scrape says: (name, labels) -> value."""
    found = {}
    for family in text_string_to_metric_families(render(registry).decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_rows_have_their_own_names_and_a_place() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    registry = Registry()
    for metric in METRICS:
        assert metric.name.startswith(("redis_", "respkv_")) and metric.help
        assert (metric.kind is MetricKind.COUNTER) == metric.name.endswith("_total"), metric.name
        assert "." in metric.at or hasattr(registry, metric.at), metric.at


def test_calls() -> None:
    registry = Registry()
    registry.count_call("get", 10)
    registry.count_call("get", 20, b"-WRONGTYPE no\r\n")
    registry.reject("get", b"-ERR wrong number\r\n")
    registry.reject(None, b"-ERR unknown\r\n")
    stats = registry.command("get")
    assert (stats.calls, stats.usec, stats.failed, stats.rejected) == (2, 30, 1, 1)
    assert stats.usec_per_call() == 15.0 and stats.histogram.count == 2
    assert registry.errors == {"WRONGTYPE": 1, "ERR": 2}
    assert registry.error_replies == 3 and registry.commands_processed == 2
    assert registry.command("set").usec_per_call() == 0.0
    registry.check_invariants()


def test_batches() -> None:
    registry = Registry()
    stats = registry.command("get")
    registry.count_fast(stats, 0, 0)
    registry.count_fast(stats, 10, 53)
    assert stats.calls == registry.commands_processed == stats.histogram.count == 10
    assert stats.usec == stats.histogram.total_us == 53, "nothing is lost to rounding"
    assert stats.histogram.percentiles((70, 71)) == [5, 6] and stats.histogram.worst_us == 6


def test_latency_tracking_off() -> None:
    registry = Registry()
    registry.latency_tracking = False
    registry.count_call("get", 10)
    registry.count_fast(registry.command("get"), 2, 10)
    assert registry.command("get").histogram.count == 0 and registry.command("get").usec == 20


def test_error_codes_are_bounded() -> None:
    registry = Registry()
    for number in range(ERROR_CODES_MAX + 5):
        registry.count_error(b"-E%d text\r\n" % number)
    registry.count_error(b"-E0 text\r\n")
    registry.count_error(b"-\r\n")
    assert len(registry.errors) == ERROR_CODES_MAX + 1
    assert registry.errors["E0"] == 2 and registry.errors[ERROR_CODES_OVERFLOW] == 6
    registry.check_invariants()


def test_rates_are_means_of_sixteen_samples() -> None:
    registry = Registry()
    registry.commands_processed = 1000
    now_us = 5_000_000
    registry.sample(now_us)
    assert registry.ops_per_second == 0
    for _ in range(SAMPLES):
        registry.commands_processed += 50
        registry.net_input_bytes += 1024
        registry.net_output_bytes += 2048
        registry.cycles += 1
        now_us += SAMPLE_INTERVAL_US
        registry.sample(now_us - 1)  # too early: the sample is left out
        registry.sample(now_us)
    assert registry.ops_per_second == 500
    assert round(registry.input_kbps, 6) == 10 and round(registry.output_kbps, 6) == 20
    assert registry.cycles_per_second == 10
    for _ in range(SAMPLES // 2):
        now_us += SAMPLE_INTERVAL_US
        registry.sample(now_us)
    assert registry.ops_per_second == 250


def test_reset_keeps_the_objects() -> None:
    registry = Registry()
    stats = registry.command("get")
    registry.sample(0)
    registry.count_call("get", 10, b"-ERR x\r\n")
    registry.sample(SAMPLE_INTERVAL_US)
    registry.wal_sync.record(5)
    registry.net_input_bytes = 7
    registry.writes_refused = 1
    registry.reset()
    assert registry.command("get") is stats and stats.calls == stats.failed == stats.usec == 0
    assert stats.histogram.count == registry.wal_sync.count == registry.net_input_bytes == 0
    assert registry.errors == {} and registry.ops_per_second == 0
    assert registry.writes_refused == 1
    registry.sample(2 * SAMPLE_INTERVAL_US)
    assert registry.ops_per_second == 0
    registry.check_invariants()


def test_sources_are_asked_when_somebody_looks() -> None:
    registry = Registry()
    traffic = {"bytes": 5}
    asked: list[int] = []

    def bring() -> None:
        registry.net_input_bytes = traffic["bytes"]

    def storage() -> dict[str, int]:
        asked.append(1)
        return {"runs": 3}

    registry.on_refresh(bring)
    registry.attach("storage", storage)
    assert not asked
    traffic["bytes"] = 6
    found = {metric.name: figure for metric, figure in registry.collect()}
    assert found["respkv_runs"] == 3 and found["redis_net_input_bytes_total"] == 6
    assert "respkv_tables" not in found and "redis_memory_used_bytes" not in found
    assert len(asked) == 1
    assert registry.stats()["sources"] == 1


def test_scrape() -> None:
    registry = Registry()
    for _ in range(99):
        registry.count_call("get", 10)
    registry.count_call("get", 2000, b"-WRONGTYPE x\r\n")
    registry.command("never")
    registry.reject("set", b"-ERR x\r\n")
    registry.wal_sync.record(800)
    registry.wal_sync.record(20_000_000)
    registry.cycle_us = 1_500_000
    registry.attach("databases", lambda: {"keys": {"0": 5, "3": 1}, "expires": {"0": 2}})
    registry.attach("storage", lambda: {"write_amplification": 2.5, "compaction_debt_bytes": 7})
    found = samples(registry)
    get = (("cmd", "get"),)
    assert found["redis_up", ()] == 1
    assert found["redis_commands_total", get] == 100
    assert found["redis_commands_duration_seconds_total", get] == 0.00299
    assert found["redis_commands_failed_calls_total", get] == 1
    assert found["redis_commands_rejected_calls_total", (("cmd", "set"),)] == 1
    assert ("redis_commands_total", (("cmd", "never"),)) not in found
    assert found["redis_latency_percentiles_usec", (("cmd", "get"), ("quantile", "0.5"))] == 10
    assert found["redis_latency_percentiles_usec", (("cmd", "get"), ("quantile", "0.99"))] == 10
    assert found["redis_latency_percentiles_usec", (("cmd", "get"), ("quantile", "0.999"))] > 1900
    assert found["redis_latency_percentiles_usec_count", get] == 100
    assert found["redis_errors_total", (("err", "WRONGTYPE"),)] == 1
    assert found["redis_db_keys", (("db", "db3"),)] == 1
    assert found["redis_db_keys_expiring", (("db", "db0"),)] == 2
    assert found["respkv_write_amplification", ()] == 2.5
    assert found["respkv_cycle_seconds_total", ()] == 1.5
    assert found["respkv_wal_sync_seconds_bucket", (("le", "0.0005"),)] == 0
    assert found["respkv_wal_sync_seconds_bucket", (("le", "0.001"),)] == 1
    assert found["respkv_wal_sync_seconds_bucket", (("le", "+Inf"),)] == 2
    assert found["respkv_wal_sync_seconds_count", ()] == 2
    assert found["respkv_wal_sync_seconds_sum", ()] == 20.0008
    assert (
        len([key for key in found if key[0] == "respkv_wal_sync_seconds_bucket"]) == len(BUCKET_ENDS_US) + 1
    )
    assert "CommandStats calls=100" in repr(registry.command("get"))
