"""What the comparison of clusters reckons, and its driver against stores that answer right and wrong."""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading
from pathlib import Path

import hiredis
import pytest

from compat.load import cluster, cluster_driver
from compat.load.cluster import BENCHMARK, DRIVER, Group, Run, Series
from compat.load.clusters import Cluster, all_removed, free_base, is_free
from compat.load.connection import ServerError, key_name
from compat.load.servers import LoadError
from respkv.base.slots import SLOT_COUNT, slot_of


class FakeStore:
    """Answers every command by a function of its words, on as many connections as come."""

    def __init__(self, answer: dict[bytes, bytes]) -> None:
        self._answer = answer
        self.seen: list[list[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        reader = hiredis.Reader()
        with peer, contextlib.suppress(ConnectionError):
            while data := peer.recv(1 << 16):
                reader.feed(data)
                out = b""
                while (words := reader.gets()) is not False:
                    self.seen.append(words)
                    out += self._answer[words[0]]
                peer.sendall(out)

    def close(self) -> None:
        self._listener.close()


def options(port: int, operation: str, *more: str) -> argparse.Namespace:
    words = ["--ports", str(port), "--operation", operation, "--keys", "100", "--value-bytes", "5", "--seconds", "0.02"]
    return cluster_driver.parse_options([*words, *more])


def driven(answer: dict[bytes, bytes], operation: str, *more: str) -> tuple[dict[str, float], FakeStore]:
    store = FakeStore(answer)
    try:
        given = options(store.port, operation, "--connections", "2", *more)
        return cluster_driver.Driver(given).run(given.seconds), store
    finally:
        store.close()


@pytest.mark.parametrize("pipeline", ["1", "3"])
@pytest.mark.parametrize("operation", ["set", "get", "set-wait"])
def test_requests_are_counted(operation: str, pipeline: str) -> None:
    answers = {b"SET": b"+OK\r\n", b"GET": b"$5\r\nvalue\r\n", b"WAIT": b":1\r\n"}
    figures, store = driven(answers, operation, "--pipeline", pipeline)
    first = [words for words in store.seen if words[0] != b"WAIT"]
    assert figures["answered"] == len(first) >= figures["requests"] > 0
    assert len(store.seen) == len(first) * (2 if operation == "set-wait" else 1)
    assert {len(words[1]) for words in first} == {16} and figures["missing"] == 0
    assert figures["p99_ms"] >= figures["p50_ms"] > 0


def test_every_key_is_filled_once() -> None:
    figures, store = driven({b"SET": b"+OK\r\n"}, "fill", "--pipeline", "7", "--seconds", "10")
    assert figures["answered"] == 100
    assert sorted(words[1] for words in store.seen) == [key_name(number) for number in range(100)]


def slots_reply(port: int) -> bytes:
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$2\r\nid\r\n" % port


def test_keys_go_to_the_owner_of_their_slot() -> None:
    half = SLOT_COUNT // 2
    first, second = FakeStore({}), FakeStore({b"SET": b"+OK\r\n"})
    rows = [(0, half - 1, first.port), (half, SLOT_COUNT - 1, second.port)]
    reply = b"*2\r\n" + b"".join(
        b"*3\r\n:%d\r\n:%d\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$2\r\nid\r\n" % row for row in rows
    )
    first._answer |= {b"CLUSTER": reply, b"SET": b"+OK\r\n"}
    try:
        given = options(first.port, "fill", "--routed", "--connections", "5", "--pipeline", "7", "--seconds", "10")
        given.ports.append(second.port)
        assert cluster_driver.Driver(given).run(10)["answered"] == 100
        for store, low in ((first, True), (second, False)):
            keys = [words[1] for words in store.seen if words[0] == b"SET"]
            assert keys and all((slot_of(key) < half) == low for key in keys)
        given.ports.pop()
        with pytest.raises(ServerError, match="not named"):
            cluster_driver.Driver(given)
    finally:
        first.close()
        second.close()


def test_a_slot_without_owner() -> None:
    store = FakeStore({b"CLUSTER": slots_reply(1).replace(b":16383", b":16382")})
    with pytest.raises(ServerError, match="slot 16383 has no owner"):
        cluster_driver.owners_of_slots(store.port)
    store.close()


@pytest.mark.parametrize(
    ("operation", "answers", "reason"),
    [
        ("set", {b"SET": b"-MOVED 1 x:1\r\n"}, "MOVED"),
        ("set", {b"SET": b"$2\r\nno\r\n"}, "not replicated, or no reply"),
        ("set-wait", {b"SET": b"+OK\r\n", b"WAIT": b":0\r\n"}, "not replicated"),
        ("get", {b"GET": b"$3\r\nabc\r\n"}, "a value of 3 bytes"),
    ],
)
def test_wrong_answers_end_the_run(operation: str, answers: dict[bytes, bytes], reason: str) -> None:
    with pytest.raises(ServerError, match=reason):
        driven(answers, operation)


def test_absent_keys_are_counted() -> None:
    figures, _ = driven({b"GET": b"$-1\r\n"}, "get")
    assert figures["missing"] == figures["answered"] > 0


def test_a_level_is_asked_for() -> None:
    _, store = driven({b"GET": b"$5\r\nvalue\r\n", b"RKV.LEVEL": b"+OK\r\n"}, "get", "--level", "eventual")
    assert [words for words in store.seen if words[0] == b"RKV.LEVEL"] == [[b"RKV.LEVEL", b"eventual"]] * 2


def test_silence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_driver, "SILENCE_S", 0.01)
    with pytest.raises(ServerError, match="no answer"):
        driven({b"SET": b""}, "set")


def test_a_driver_that_fails_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    store = FakeStore({b"SET": b"-OOM full\r\n"})
    assert cluster_driver.main(["--ports", str(store.port), "--operation", "set", "--keys", "9"]) == 1
    assert capsys.readouterr().err == "cluster_driver: OOM full\n"
    store.close()
    given = cluster.parse_options(["--quick", "--keys", "9"])
    with pytest.raises(LoadError, match="cluster_driver: "):
        cluster.run_driver([1], "set", routed=False, pipeline=1, options=given, timeout_s=30)


def test_the_list_of_nodes_is_left_out() -> None:
    table = '"test","rps"\n"SET","1"\n'
    assert cluster.figures_only(f"Cluster has 3 master nodes:\n\nMaster 0: x\n\n{table}") == table
    assert cluster.figures_only("nothing") == "nothing"


def test_ports_that_are_taken_are_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free(port)
        bases: list[int] = []

        def ports_of(base: int) -> list[int]:
            bases.append(base)
            return [port] if len(bases) == 1 else []

        assert free_base(ports_of) == bases[1] != bases[0]
        with pytest.raises(LoadError, match="no free ports"):
            free_base(lambda base: [port])


class Removable(Cluster):
    removed = False

    def remove(self) -> None:
        self.removed = True
        if self.name == "bad":
            raise OSError("busy")


def test_all_are_removed_though_one_cannot_be() -> None:
    stores = {"bad": Removable("bad"), "good": Removable("good")}
    with pytest.raises(LoadError, match="busy"), all_removed(stores):  # type: ignore[arg-type]
        pass
    assert stores["good"].removed


def found(**rates: float) -> dict[Group, dict[str, list[Run]]]:
    """Figures of all groups, 100 requests/s for who is not named."""
    return {
        group: {
            series.name: [Run(rates.get(series.name.replace(" ", "_"), 100.0) * group.pipeline, 1, 2, 10.0)] * 2
            for series in group.columns
        }
        for group in cluster.make_groups()
    }


def test_targets() -> None:
    rows = {row[0]: row[1:] for row in cluster.targets(found())}
    assert rows["QUORUM SET beside Redis SET+WAIT 1"] == ["1.00", ">= 0.85", "met"]
    assert rows["processor time of a QUORUM SET over one of a single node"] == ["1.00", "<= 3.5", "met"]
    assert rows["QUORUM SET -P 16 over -P 1, driver"] == ["16.00", ">= 2.2", "met"]
    rows = {row[0]: row[1:] for row in cluster.targets(found(respkv_QUORUM=80.0, respkv_EVENTUAL=79.0))}
    assert rows["QUORUM SET beside Redis SET+WAIT 1"] == ["0.80", ">= 0.85", "MISSED"]
    assert rows["EVENTUAL GET at a replica over GET of a single node"] == ["0.79", ">= 0.8", "MISSED"]
    only = {group: runs for group, runs in found().items() if group.tool == BENCHMARK}
    assert [row[0] for row in cluster.targets(only)] == ["QUORUM SET -P 16 over -P 1, redis-benchmark"]


def test_the_table_has_a_line_for_each_column() -> None:
    lines = cluster.render(found(redis=50.0)).splitlines()
    assert len(lines) == 1 + sum(len(group.columns) for group in cluster.make_groups())
    assert [line.split()[-4] for line in lines if line.startswith("GET -P 1, driver: redis ")] == ["2.00"]


def test_every_series_has_ports() -> None:
    stores = {name: Cluster(name) for name in ("respkv", "redis", "single")}
    stores["respkv"].ports, stores["respkv"].plain_ports = [1, 2, 3], [4, 5, 6]
    stores["redis"].ports, stores["single"].plain_ports = [7, 8], [9]
    series = {s.name: s for group in cluster.make_groups() if group.tool == DRIVER for s in group.columns}
    ports = {name: cluster.ports_of(each, stores) for name, each in series.items()}  # type: ignore[arg-type]
    assert ports["respkv QUORUM"] == [1, 2, 3] and ports["respkv plain face"] == [4, 5, 6]
    assert ports["respkv EVENTUAL"] == [4] and ports["redis SET+WAIT 1"] == [7, 8] and ports["single"] == [9]
    assert cluster.ports_of(Series("x", "respkv", "set", one_node=True), stores) == [1]  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [["--nodes", "2"], ["--tools", "x"], ["--seconds", "0"], ["--keys", "3"]])
def test_odd_options_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        cluster.parse_options(words)


def test_a_missing_tool_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cluster.main(["--quick"]) == 1
    assert "not found on PATH: redis-benchmark, redis-cli" in capsys.readouterr().err


@pytest.mark.parametrize("made", ["fails", "is late"])
def test_a_benchmark_that_goes_wrong(made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "redis-benchmark"
    script.write_text("#!/bin/sh\necho no nodes\nexit 3\n" if made == "fails" else "#!/bin/sh\nexec /bin/sleep 30\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadError, match=r"ended with 3: 'no nodes|not done after"):
        timeout_s = 5 if made == "fails" else 0.05
        cluster.run_benchmark(1, "set", requests=1, routed=True, timeout_s=timeout_s, pipeline=1, keys=1, value_bytes=1)
