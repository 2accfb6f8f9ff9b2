"""What the load commands read and reckon."""

from __future__ import annotations

import argparse
import os
import socket
import threading
from pathlib import Path

import pytest

from compat.load import redis_benchmark, restart
from compat.load.compaction_latency import split_by_work
from compat.load.compare import Run, parse_options, parse_workloads, render, summarise
from compat.load.connection import Connection, ServerError, _stride, encode, fill, parse_info
from compat.load.figures import longest_gap, percentile, rates, ratio_of_pairs, summary_ms, table
from compat.load.metrics_page import fetch_metrics, parse_metrics
from compat.load.probe import ProbeResult, random_get, run_probe
from compat.load.servers import LoadError, Server, disk_bytes, free_port, parse_stat, require_tools, tree

HEAD = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"'
)
MSET = '"MSET (10 keys)","86956.52","0.336","0.080","0.247","0.591","2.703","3.015"'


def test_csv_rows_are_read() -> None:
    [row] = redis_benchmark.parse_csv(f"{HEAD}\n{MSET}\n")
    assert row == redis_benchmark.Row("MSET (10 keys)", 86956.52, 0.336, 0.08, 0.247, 0.591, 2.703, 3.015)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "printed nothing"),
        (HEAD, "no figures"),
        (MSET, "other columns"),
        (f"{HEAD}\n{MSET}\nError from server: ERR no", "not a row"),
        (f'{HEAD}\n"GET","fast","1","1","1","1","1","1"', "not a row"),
        (f'{HEAD}\n"GET","nan","1","1","1","1","1","1"', "measured nothing"),
        (f'{HEAD}\n"GET","0.00","1","1","1","1","1","1"', "measured nothing"),
    ],
)
def test_other_output_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        redis_benchmark.parse_csv(text)


def test_complaints_are_errors() -> None:
    redis_benchmark.check_stderr("WARNING: Could not fetch server CONFIG\n\n")
    with pytest.raises(LoadError, match="unknown command"):
        redis_benchmark.check_stderr("Error from server: ERR unknown command\n")


def test_requests_are_bounded() -> None:
    assert redis_benchmark.requests_for(100_000, 15) == 1_500_000
    assert redis_benchmark.requests_for(1, 1) == redis_benchmark.REQUESTS_MIN
    assert redis_benchmark.requests_for(1e12, 3600) == redis_benchmark.REQUESTS_MAX


def test_a_run_that_never_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "redis-benchmark"
    script.write_text("#!/bin/sh\nexec sleep 30\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(LoadError, match="not done after"):
        redis_benchmark.run(1, "get", requests=1, pipeline=1, keys=1, value_bytes=1, timeout_s=0.05)


def test_a_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadError, match="redis-benchmark"):
        require_tools("redis-benchmark")
    with pytest.raises(LoadError, match="redis-benchmark"):
        redis_benchmark.run(1, "get", requests=1, pipeline=1, keys=1, value_bytes=1, timeout_s=1)


def test_stat_with_an_odd_name() -> None:
    fields = ["S", "1", *["0"] * 9, "300", "100", "50", "25", *["0"] * 6, "77", "0"]
    own, children, pages = parse_stat(f"12 (a) b (c) {' '.join(fields)}")
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    assert (own, children, pages) == (400 * tick_s, 75 * tick_s, 77)


def test_our_own_process_is_in_its_tree() -> None:
    assert tree(os.getpid())[0] == os.getpid()


def test_disk_bytes_counts_blocks(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"x" * 10_000)
    assert disk_bytes(str(tmp_path)) == (tmp_path / "sub" / "file").stat().st_blocks * 512


def test_a_server_that_ends_at_once_is_an_error() -> None:
    server = Server("odd", "sh -c 'echo no such thing; exit 3'", [])
    try:
        with pytest.raises(LoadError, match=r"ended with 3:\nno such thing"):
            server.start()
    finally:
        server.remove()
    assert not os.path.exists(server.dir)


def test_an_installed_server_does_not_see_the_source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its own modules it would find those of the tree, which are not compiled."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    server = Server("installed", "sh -c 'echo path=$PYTHONPATH.; exit 3'", [])
    try:
        with pytest.raises(LoadError, match=r"path=\.$"):
            server.start()
    finally:
        server.remove()


def test_a_server_that_is_missing_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert restart.main(["--respkv-server", "/nonexistent/server"]) == 1
    assert "cannot start /nonexistent/server" in capsys.readouterr().err


def test_percentiles() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (50, 99, 99.9, 100)] == [50, 99, 100, 100]
    assert summary_ms([1000.0, 3000.0]) == {"samples": 2, "p50_ms": 1, "p99_ms": 3, "p999_ms": 3, "max_ms": 3}
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_gaps_and_rates() -> None:
    assert longest_gap([0.0, 1.0, 3.5, 4.0]) == 2.5
    assert longest_gap([1.0]) == 0
    assert rates([(0, 0), (0.5, 50), (0.5, 60), (1.5, 60)]) == [100, 0]


def test_ratio_is_of_neighbours() -> None:
    assert ratio_of_pairs([10, 20, 90], [10, 40, 100]) == 0.9
    with pytest.raises(ValueError, match="2 runs against 1"):
        ratio_of_pairs([1, 2], [1])


def test_table_is_aligned() -> None:
    assert table(["a", "bb"], [["long", "1"]]) == "a     bb\nlong   1"


def test_summary_and_table_of_a_comparison() -> None:
    runs = [Run(name, rps, 0.5, 1.5, 6.0, 5.0, 0.0) for name, rps in (("respkv", 90.0), ("redis", 100.0))]
    summary = summarise(runs)
    assert summary["ratio"] == 0.9
    assert summary["respkv"]["main_cpu_us"] == 5.0
    assert "GET -P 16" in render({("get", 16): summary})


def test_workloads_and_options() -> None:
    assert parse_workloads("get,SET:16") == [("get", 1), ("set", 16)]
    for text in ("lpush", "get:0", "get:x"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_workloads(text)
    quick = parse_options(["--quick"])
    assert (quick.seconds, quick.rounds) == (2.0, 1)
    assert parse_options(["--quick", "--seconds", "1"]).seconds == 1
    assert (parse_options([]).seconds, parse_options([]).rounds) == (15.0, 3)


def test_latencies_are_split_by_work() -> None:
    samples = [(0.0, 0.0), (1.0, 0.5), (2.0, 0.51)]
    replies = [(-1.0, 9.0), (0.5, 1.0), (1.5, 2.0), (2.5, 9.0)]
    assert split_by_work(replies, samples) == ([1.0], [2.0])


def test_info_and_metrics() -> None:
    assert parse_info("# Stats\r\na:1\r\nb:x:y\r\n\r\n") == {"a": "1", "b": "x:y"}
    assert parse_metrics('# HELP a\na 1.5\nb{x="y"} 2\n') == {"a": 1.5}
    with pytest.raises(LoadError, match="not a line"):
        parse_metrics("a b c\n")
    with pytest.raises(LoadError, match="no metrics"):
        fetch_metrics(free_port())


@pytest.mark.parametrize("keys", [1, 2, 10, 997, 1000])
def test_the_stride_walks_every_key(keys: int) -> None:
    step = _stride(keys)
    assert len({number * step % keys for number in range(keys)}) == keys


class OneAnswer:
    """A listener that sends one text to each who speaks to it, and closes."""

    def __init__(self, text: bytes) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(text,), daemon=True)
        self._thread.start()

    def _serve(self, text: bytes) -> None:
        peer, _ = self._listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(text)
        self._listener.close()


def test_error_replies_and_closed_connections_are_errors() -> None:
    with Connection(OneAnswer(b"-ERR no\r\n").port, timeout_s=5) as connection, pytest.raises(ServerError, match="no"):
        connection.call("PING")
    with Connection(OneAnswer(b"").port, timeout_s=5) as connection, pytest.raises(ServerError, match="closed"):
        connection.call("PING")
    with pytest.raises(ServerError, match="OOM"):
        fill(OneAnswer(b"-OOM full\r\n").port, 1, value_bytes=3)
    with pytest.raises(ServerError, match="LOADING"):
        run_probe(OneAnswer(b"-LOADING\r\n").port, seconds=0.01, interval_ms=5, make=random_get(1))


def test_probe_summary() -> None:
    result = ProbeResult([(0.0, 1000.0), (0.25, 2000.0)], [100.0, 500.0])
    summary = result.summary()
    assert (summary["longest_pause_ms"], summary["probe_late_max_ms"], summary["max_ms"]) == (250, 0.5, 2)


def test_commands_are_encoded() -> None:
    assert encode("GET", b"k", 12) == b"*3\r\n$3\r\nGET\r\n$1\r\nk\r\n$2\r\n12\r\n"
