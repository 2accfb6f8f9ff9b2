"""What an operator sees: /metrics, INFO, the log."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import ServerProcess, free_port

Start = Callable[..., ServerProcess]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int) -> Samples:
    """(name, labels) -> value of everything on the page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as page:
        text = page.read().decode()
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            place = (sample.name, frozenset(sample.labels.items()))
            assert place not in samples, f"{place} twice"
            samples[place] = sample.value
    return samples


def test_the_page_has_what_operators_need(start_server: Start) -> None:
    port = free_port()
    server = start_server(metrics_port=port, memtable_bytes="4mb", maxmemory="64mb")
    client = server.client()
    pipe = client.pipeline(transaction=False)
    for number in range(8_000):
        pipe.set(f"k{number}", f"{number}" * 200)
        if number % 500 == 499:
            pipe.execute()
    for _ in range(1_000):
        client.set("hot", "v")
        client.get("hot")
    time.sleep(1.2)
    for number in range(0, 8_000, 16):
        client.get(f"k{number}")
    samples = scrape(port)

    def value(name: str, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    for command, calls in (("get", 1_500), ("set", 9_000)):
        assert value("redis_commands_total", cmd=command) == calls
        assert value("redis_latency_percentiles_usec_count", cmd=command) == calls
        assert value("redis_commands_duration_seconds_total", cmd=command) > 0
        quantiles = [
            value("redis_latency_percentiles_usec", cmd=command, quantile=quantile)
            for quantile in ("0.5", "0.99", "0.999")
        ]
        assert 0 < quantiles[0] <= quantiles[1] <= quantiles[2] < 10_000_000
    assert value("redis_commands_processed_total") >= 10_500
    assert value("redis_instantaneous_ops_per_sec") >= 0
    for name in (
        *("redis_memory_used_bytes", "redis_memory_used_rss_bytes", "redis_memory_max_bytes", "respkv_memtable_bytes"),
        *("respkv_disk_bytes", "respkv_table_bytes", "respkv_tables", "respkv_flushes_total"),
        "redis_uptime_in_seconds",
        *("redis_cpu_user_seconds_total", "redis_cpu_sys_seconds_total", "respkv_write_amplification"),
        *("respkv_row_cache_hits_total", "respkv_row_cache_misses_total", "respkv_row_cache_bytes"),
        *("respkv_wal_sync_seconds_count", "respkv_wal_sync_seconds_sum", "respkv_cycles_total"),
    ):
        assert value(name) > 0, name
    for name in (
        *("respkv_block_cache_hits_total", "respkv_block_cache_misses_total", "respkv_block_cache_bytes"),
        *("respkv_compaction_debt_bytes", "respkv_compactions_total", "respkv_wal_unsynced_bytes"),
        *("respkv_writes_refused", "respkv_job_failures_total", "redis_rejected_connections_total"),
    ):
        assert value(name) >= 0, name
    assert value("redis_db_keys", db="db0") == 8_001
    assert samples["redis_keyspace_hits_total", frozenset()] == 1_500


def test_statistics_of_the_commands_that_are_treated_apart(start_server: Start) -> None:
    client: Any = start_server().client()
    for _ in range(200):
        client.set("k", "v")
        client.get("k")
    histogram = client.execute_command("LATENCY", "HISTOGRAM", "get", "set")
    info = client.info("everything")
    for command in ("get", "set"):
        entry = histogram[histogram.index(command.encode()) + 1]
        assert entry[entry.index(b"calls") + 1] == 200
        row = info[f"cmdstat_{command}"]
        assert row["calls"] == 200 and row["usec"] > 0 and row["usec_per_call"] > 0
        assert info[f"latency_percentiles_usec_{command}"]["p99"] > 0


def test_processor_time_in_info(start_server: Start) -> None:
    client = start_server().client()
    for _ in range(3_000):
        client.set("k", "v" * 1_000)
    cpu = client.info("cpu")
    assert all(cpu[f"used_cpu_{name}"] > 0 for name in ("user", "sys", "user_main_thread", "user_children"))


def test_a_browser_is_turned_away_and_the_log_says_so(start_server: Start) -> None:
    server = start_server()
    for request in (b"POST / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: y\r\n"):
        with server.connect() as sock:
            sock.sendall(request)
            answer = b""
            while data := sock.recv(1_000):
                answer += data
            assert b"User-Agent" not in answer
            host, client_port = sock.getsockname()
            address = f"{host}:{client_port}"
        if request.startswith(b"POST"):
            assert answer == b""
            told = f"Connection from {address} aborted."
    text = server.log_text()
    assert text.count("Possible SECURITY ATTACK detected.") == 1 and told in text


def test_a_page_that_nobody_reads_does_no_harm(start_server: Start) -> None:
    port = free_port()
    server = start_server(metrics_port=port)
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    for data in (request * 300, b"\x16\x03\x01\x02\x00\x01", b"GET /metrics HTTP/1.1\r\n", request + b"!!\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            try:
                sock.sendall(data)
            except OSError:
                pass  # It was closed while we were sending.
    assert scrape(port) and server.client().ping()
