"""HOTKEYS: the syntax and the mistakes of Redis 8.6, sessions, and what is told without one."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.slots import SLOT_COUNT, slot_of
from respkv.commands.command import docs_of
from respkv.commands.hotkeys import COMMANDS, sample_request
from respkv.commands.table import build_table
from respkv.env.rng import seeded
from respkv.metrics.hot_keys import INTERVAL, HotKeys
from respkv.resp.reply import encode
from tests.unit.commands.fake_ring import FakeRing, connect, join
from tests.unit.commands.fake_server import Client, ErrorText, FakeServer


class Rig:
    """A server with hot keys, and a client of a face."""

    def __init__(self, ring: FakeRing | None = None, *, cluster_face: bool = False) -> None:
        self.fake = FakeServer()
        self.keys = HotKeys(seeded(1))
        self.fake.hot_keys = self.keys  # type: ignore[attr-defined]
        self.cpu = {"user": 1.0, "sys": 0.5}
        self.fake.metrics.attach("cpu", lambda: self.cpu)
        if ring is not None:
            join(self.fake, ring)
        self.client: Client = connect(self.fake, cluster_face=cluster_face)

    def __call__(self, line: str) -> Any:
        return self.client("HOTKEYS", *line.split())

    def get(self) -> dict[str, Any]:
        (flat,) = self("GET")
        return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}

    def sample(self, key: bytes, count: int, *, write: bool = False) -> None:
        for _ in range(count):
            self.keys.sample(key, write)

    def spend(self, command_us: int, net_bytes: int) -> None:
        """Let commands take time and bytes."""
        self.fake.metrics.command("get").usec += command_us
        self.fake.metrics.net_input_bytes += net_bytes // 4
        self.fake.metrics.net_output_bytes += net_bytes - net_bytes // 4


def pairs(flat: list[Any]) -> dict[bytes, int]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("START", "METRICS parameter is required"),
        ("START COUNT 1", "METRICS parameter is required"),
        ("START METRICS", "METRICS parameter is required"),
        ("START METRICS 0 CPU", "METRICS count must be > 0 and <= 2"),
        ("START METRICS 3 CPU NET CPU", "METRICS count must be > 0 and <= 2"),
        ("START METRICS x CPU", "METRICS count must be > 0 and <= 2"),
        ("START METRICS 2 CPU", "METRICS count does not match number of metric types provided"),
        ("START METRICS 2 CPU CPU", "METRICS CPU defined more than once!"),
        ("START METRICS 2 net NET", "METRICS NET defined more than once!"),
        ("START METRICS 1 FOO", "METRICS no valid metrics passed. Supported: CPU|NET"),
        ("START METRICS 1 CPU COUNT 0", "COUNT must be between 1 and 64"),
        ("START METRICS 1 CPU COUNT 65", "COUNT must be between 1 and 64"),
        ("START METRICS 1 CPU COUNT x", "COUNT must be between 1 and 64"),
        ("START METRICS 1 CPU DURATION 0", "DURATION must be between 1 and 1000000"),
        ("START METRICS 1 CPU DURATION 1000001", "DURATION must be between 1 and 1000000"),
        ("START METRICS 1 CPU SAMPLE 0", "SAMPLE ratio must be positive"),
        ("START METRICS 1 CPU SLOTS 1 5", "SLOTS parameter cannot be used in non-cluster mode"),
        ("START METRICS 1 CPU NET", "syntax error"),
        ("START METRICS 1 CPU COUNT", "syntax error"),
        ("START METRICS 1 CPU FOO 1", "syntax error"),
    ],
)
def test_mistakes_of_start_are_those_of_redis(line: str, mistake: str) -> None:
    rig = Rig()
    assert rig(line) == ErrorText(f"ERR {mistake}")
    assert rig.keys.tracking is None


def test_words_in_any_case_and_order() -> None:
    rig = Rig()
    assert rig("start metrics 2 net cpu sample 100 count 3 duration 5") == b"OK"
    tracking = rig.keys.tracking
    assert tracking is not None and tracking.cpu and tracking.net and tracking.count == 3 and tracking.ratio == 128


def test_a_session() -> None:
    rig = Rig()
    rig.sample(b"before", 100)
    rig.spend(9_000, 9_000)
    assert rig("START METRICS 2 CPU NET COUNT 2") == b"OK"
    assert rig("START METRICS 1 CPU") == ErrorText("ERR hotkey tracking session already in progress")
    assert rig("RESET") == ErrorText("ERR hotkey tracking session in progress, stop tracking first")
    began = rig.fake.now_ms
    rig.sample(b"a", 6)
    rig.sample(b"b", 3, write=True)
    rig.sample(b"c", 1)
    rig.fake.advance_ms(2500)
    rig.spend(1_000_000, 40_000)
    rig.cpu = {"user": 3.25, "sys": 0.75}
    found = rig.get()
    assert list(found) == [
        "tracking-active", "sample-ratio", "selected-slots", "all-commands-all-slots-us",
        "net-bytes-all-commands-all-slots", "collection-start-time-unix-ms", "collection-duration-ms",
        "total-cpu-time-user-ms", "total-cpu-time-sys-ms", "total-net-bytes", "by-cpu-time-us", "by-net-bytes",
        "by-requests", "by-writes",
    ]  # fmt: skip
    assert found["tracking-active"] == 1 and found["sample-ratio"] == INTERVAL
    assert found["selected-slots"] == [[0, SLOT_COUNT - 1]]
    # The clock of the fake stands still while commands run.
    assert found["all-commands-all-slots-us"] == 1_000_000 and found["net-bytes-all-commands-all-slots"] == 40_000
    assert found["collection-start-time-unix-ms"] == began and found["collection-duration-ms"] == 2500
    assert found["total-cpu-time-user-ms"] == 2250 and found["total-cpu-time-sys-ms"] == 250
    assert pairs(found["by-cpu-time-us"]) == {b"a": 600_000, b"b": 300_000}
    assert pairs(found["by-net-bytes"]) == {b"a": 24_000, b"b": 12_000}
    assert pairs(found["by-requests"]) == {b"a": 6 * INTERVAL, b"b": 3 * INTERVAL}
    assert pairs(found["by-writes"]) == {b"b": 3 * INTERVAL}
    assert rig("STOP") == b"OK"
    assert rig("STOP") is None
    rig.sample(b"late", 100)
    rig.spend(5, 5)
    rig.fake.advance_ms(1000)
    after = rig.get()
    assert after["tracking-active"] == 0 and after["collection-duration-ms"] == 2500
    assert after["by-cpu-time-us"] == found["by-cpu-time-us"]
    assert rig("RESET") == b"OK" and rig.keys.tracking is None
    assert rig("RESET") == b"OK" and rig("STOP") is None


def test_a_new_session_replaces_the_one_that_was_stopped() -> None:
    rig = Rig()
    rig("START METRICS 1 CPU")
    rig.sample(b"a", 5)
    rig("STOP")
    assert rig("START METRICS 1 NET") == b"OK"
    found = rig.get()
    assert "by-cpu-time-us" not in found and "total-cpu-time-user-ms" not in found
    assert found["by-net-bytes"] == [] and found["total-net-bytes"] == 0


def test_a_session_ends_by_itself() -> None:
    rig = Rig()
    rig("START METRICS 1 CPU DURATION 2")
    rig.fake.advance_ms(1999)
    rig.sample(b"a", 1)
    assert rig.get()["tracking-active"] == 1
    rig.fake.advance_ms(1)
    rig.sample(b"b", 1)
    rig.fake.advance_ms(5000)
    found = rig.get()
    assert found["tracking-active"] == 0 and found["collection-duration-ms"] == 2000
    assert pairs(found["by-requests"]) == {b"a": INTERVAL}


def test_the_timer_of_an_earlier_session_ends_only_that() -> None:
    rig = Rig()
    rig("START METRICS 1 CPU DURATION 2")
    rig("STOP")
    rig("START METRICS 1 CPU")
    rig.fake.advance_ms(3000)
    assert rig.get()["tracking-active"] == 1


def test_without_a_session_the_latest_requests_are_told() -> None:
    rig = Rig()
    assert rig.get()["by-requests"] == []
    rig.sample(b"a", 5)
    rig.sample(b"b", 7, write=True)
    rig.spend(77, 1000)
    rig.fake.advance_ms(4000)
    found = rig.get()
    assert found["tracking-active"] == 1 and found["sample-ratio"] == INTERVAL
    assert found["by-requests"] == [b"b", 7 * INTERVAL, b"a", 5 * INTERVAL]
    assert found["by-writes"] == [b"b", 7 * INTERVAL]
    assert found["all-commands-all-slots-us"] == 77 and found["net-bytes-all-commands-all-slots"] == 1000
    assert found["collection-duration-ms"] == 4000
    assert found["collection-start-time-unix-ms"] == rig.fake.now_ms - 4000
    assert "by-cpu-time-us" not in found and "by-net-bytes" not in found


def test_resp3_has_a_map_in_an_array() -> None:
    rig = Rig()
    rig.client("HELLO", 3)
    (found,) = rig("GET")
    assert found[b"tracking-active"] == 1


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ([b"GET", b"a"], [(b"a", 1, 1, 0)]),
        ([b"sEt", b"a", b"v", b"EX", b"5"], [(b"a", 1, 1, 1)]),
        ([b"MSET", b"a", b"1", b"b", b"2"], [(b"a", 1, 1, 1), (b"b", 1, 1, 1)]),
        ([b"MSETEX", b"2", b"a", b"1", b"b", b"2", b"EX", b"9"], [(b"a", 1, 1, 1), (b"b", 1, 1, 1)]),
        ([b"MSETEX", b"x", b"a", b"1"], []),
        ([b"OBJECT", b"ENCODING", b"a"], [(b"a", 1, 1, 0)]),
        ([b"GET"], []),
        ([b"GET", b"a", b"b"], []),
        ([b"NOSUCH", b"a"], []),
        ([b"PING", b"a"], []),
        ([b"OBJECT", 5], []),
        ([b"GET", None], []),
        (None, []),
        (7, []),
        ([], []),
    ],
)
def test_keys_of_a_picked_request(argv: Any, found: list[tuple[bytes, int, int, int]]) -> None:
    keys = HotKeys(seeded(1))
    sample_request(keys, build_table(), argv)
    assert keys.sketch.top(9) == found


# -- slots -------------------------------------------------------------------------------------------


def mine_and_foreign(ring: FakeRing) -> tuple[bytes, bytes]:
    """A key this node holds, and one it does not."""
    assert ring.topology is not None
    names = [b"k%d" % number for number in range(1000)]
    serves = ring.topology.serves
    return next(n for n in names if serves(slot_of(n))), next(n for n in names if not serves(slot_of(n)))


def test_slots_on_the_cluster_face() -> None:
    ring = FakeRing(6, replicas=2)
    rig = Rig(ring, cluster_face=True)
    mine, foreign = mine_and_foreign(ring)
    slot = slot_of(mine)
    assert rig(f"START METRICS 2 CPU NET SLOTS 1 {slot}") == b"OK"
    rig.sample(mine, 3)
    rig.sample(foreign, 1)
    rig.spend(6400, 12800)
    found = rig.get()
    assert found["selected-slots"] == [[slot]]
    assert found["all-commands-all-slots-us"] == 6400 and found["all-commands-selected-slots-us"] == 4800
    assert found["sampled-commands-selected-slots-us"] == 75
    assert found["net-bytes-all-commands-selected-slots"] == 9600
    assert found["net-bytes-sampled-commands-selected-slots"] == 150
    assert found["net-bytes-all-commands-all-slots"] == 12800 and found["total-net-bytes"] == 9600
    assert pairs(found["by-cpu-time-us"]) == {mine: 4800}
    assert list(found)[2:8] == [
        "selected-slots", "sampled-commands-selected-slots-us", "all-commands-selected-slots-us",
        "all-commands-all-slots-us", "net-bytes-sampled-commands-selected-slots",
        "net-bytes-all-commands-selected-slots",
    ]  # fmt: skip


def test_selected_slots_are_merged() -> None:
    rig = Rig(FakeRing(), cluster_face=True)
    assert rig("START METRICS 1 CPU COUNT 4 SLOTS 5 9 3 4 5 100 DURATION 9") == b"OK"
    assert rig.get()["selected-slots"] == [[3, 5], [9], [100]]


def test_without_slots_those_this_node_is_named_for() -> None:
    ring = FakeRing(6, replicas=2)
    ranges = Rig(ring, cluster_face=True).get()["selected-slots"]
    assert ring.topology is not None
    named = [slot for first, *rest in ranges for slot in range(first, (rest or [first])[0] + 1)]
    assert named == [slot for slot in range(SLOT_COUNT) if ring.topology.owner(slot) == 1]
    assert Rig(FakeRing(0), cluster_face=True).get()["selected-slots"] == []


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        ("SLOTS 0", "SLOTS count must be between 1 and 16384"),
        ("SLOTS x 1", "SLOTS count must be between 1 and 16384"),
        ("SLOTS 2 1", "not enough slot numbers provided"),
        ("SLOTS 1 16384", "Invalid or out of range slot"),
        ("SLOTS 1 x", "Invalid or out of range slot"),
        ("SLOTS 2 7 7", "duplicate slot number"),
        ("SLOTS 1 7 SLOTS 1 8", "SLOTS parameter already specified"),
    ],
)
def test_mistakes_with_slots(words: str, mistake: str) -> None:
    rig = Rig(FakeRing(), cluster_face=True)
    assert rig(f"START METRICS 1 CPU {words}") == ErrorText(f"ERR {mistake}")


def test_a_slot_of_other_nodes() -> None:
    ring = FakeRing(6, replicas=2)
    slot = slot_of(mine_and_foreign(ring)[1])
    rig = Rig(ring, cluster_face=True)
    assert rig(f"START METRICS 1 CPU SLOTS 1 {slot}") == ErrorText(f"ERR slot {slot} not handled by this node")


def test_rows_are_documented() -> None:
    (container,) = COMMANDS
    assert rig_help()[0].startswith(b"HOTKEYS <subcommand>")
    assert [row.name for row in container.subcommands] == [
        "hotkeys|start", "hotkeys|stop", "hotkeys|get", "hotkeys|reset", "hotkeys|help",
    ]  # fmt: skip
    text = encode(docs_of(container), 2)
    for token in (b"METRICS", b"CPU", b"NET", b"COUNT", b"DURATION", b"SAMPLE", b"SLOTS"):
        assert b"\r\n%b\r\n" % token in text


def test_a_server_that_does_not_sample() -> None:
    client = FakeServer().client()
    for word in ("GET", "STOP", "RESET", "START"):
        assert client("HOTKEYS", word) == ErrorText("ERR requests are not sampled here")


def rig_help() -> list[bytes]:
    lines: list[bytes] = Rig()("HELP")
    return lines
