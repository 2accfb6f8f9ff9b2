"""respkv and Redis side by side: written cases, random sequences, and proof that a wrong answer would be seen."""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compat import differential
from compat.cases import Case
from compat.clients import redis_server
from compat.clients.raw import Frame, RawConnection
from compat.comparison import Reply, Server, Stored, Transcript, differences, observe, same_reply
from compat.known import EXPECTED
from compat.sequences import minimise, sequence
from tests.integration.conftest import ServerProcess

CASES = differential.cases()
RANDOM_S = 20.0
#: Sequences that must have been compared however slow the machine is.
RANDOM_MIN = 50
Reference = Callable[[str, int], Transcript]


class LyingConnection(RawConnection):
    """Adds one to the length that APPEND answers."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._sent: list[bytes] = []

    def send(self, *commands: list[bytes]) -> None:
        self._sent += [command[0].upper() for command in commands]
        super().send(*commands)

    def read(self) -> Frame:
        frame = super().read()
        if frame.kind != ">" and self._sent.pop(0) == b"APPEND" and frame.kind == ":":
            return Frame(":", b"%d" % (int(frame.value) + 1))
        return frame


@functools.cache
def answers() -> dict[str, Any]:
    """The recorded answers."""
    recorded: dict[str, Any] = json.loads(differential.ANSWERS.read_text())
    return recorded


@pytest.fixture(scope="module")
def ours() -> Iterator[Server]:
    """A server of the module's own, since it is emptied all the time."""
    with tempfile.TemporaryDirectory(prefix="respkv-") as directory:
        process = ServerProcess(Path(directory), enable_debug_command="yes").start()
        try:
            yield Server(process.port)
        finally:
            process.end()


@pytest.fixture(scope="module")
def live() -> Iterator[Server | None]:
    """A Redis of the version that was recorded, None when this machine has none."""
    if redis_server.executable() is None:
        yield None
        return
    with redis_server.running() as port:
        server = Server(port)
        recorded = differential.version(answers()["redis"])
        yield server if differential.version(differential.server_version(server)) == recorded else None


@pytest.fixture(scope="module")
def redis(live: Server | None) -> Server:
    if live is None:
        pytest.skip(f"no redis-server {answers()['redis']} here; recorded answers cover the written cases")
    return live


@pytest.fixture(scope="module")
def reference(live: Server | None) -> Reference:
    """What Redis shows in a case: live, else as recorded."""

    def transcript(name: str, protocol: int) -> Transcript:
        if live is not None:
            return observe(live, protocol, CASES[name].commands)
        return differential.recorded_transcript(answers()["cases"][name], CASES[name], protocol)

    return transcript


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, ours: Server, reference: Reference) -> None:
    found, stale = [], set(EXPECTED.get(name, {}))
    for protocol in differential.PROTOCOLS:
        mine, other = observe(ours, protocol, CASES[name].commands), reference(name, protocol)
        found += [f"RESP{protocol} {line}" for line in differential.unexpected(name, mine, other)]
        stale &= set(differential.unused_expectations(name, mine, other))
    assert not found, "\n".join(found)
    assert not stale, f"they agree now: {stale}"


def test_the_recorded_answers_are_those_of_the_cases() -> None:
    recorded = {name: entry["commands"] for name, entry in answers()["cases"].items()}
    written = {name: differential.digest(case) for name, case in CASES.items()}
    assert recorded == written, "run: python compat/differential.py --record"


def test_recorded_and_live_answers_agree(redis: Server) -> None:
    for name, case in list(CASES.items())[::10]:
        recorded = differential.recorded_transcript(answers()["cases"][name], case, 3)
        assert differences(observe(redis, 3, case.commands), recorded) == []


def test_random_sequences(ours: Server, redis: Server) -> None:
    start = time.monotonic()
    found = differential.first_difference(range(1_000_000), ours, redis, end_s=start + RANDOM_S)
    if not isinstance(found, int):
        pytest.fail(differential.explain(found))
    assert found >= RANDOM_MIN


def test_a_wrong_answer_is_found_and_brought_down_to_one_command(ours: Server, redis: Server) -> None:
    found = differential.first_difference(range(200), Server(ours.port, LyingConnection), redis)
    assert not isinstance(found, int), "nobody noticed"
    assert [step.command[0].upper() for step in found.steps] == [b"APPEND"]
    assert len(found.lines) == 1 and "APPEND" in found.lines[0] and found.lines[0] in differential.explain(found)


def test_a_wrong_answer_in_a_case_is_found(ours: Server, reference: Reference) -> None:
    case = Case("lie", [[b"APPEND", b"k", b"abc"], [b"GET", b"k"]])
    honest = observe(ours, 2, case.commands)
    lying = observe(Server(ours.port, LyingConnection), 2, case.commands)
    assert differences(honest, honest) == []
    assert differences(lying, honest) == ["#0 'APPEND k abc': Redis :b'3', respkv :b'4'"]


def test_a_wrong_value_left_behind_is_found() -> None:
    def left(value: bytes, pttl: int, ended_s: float = 0.0) -> Transcript:
        return Transcript([], [], {(0, b"k"): Stored(b"string", Frame("$", value), pttl)}, ended_s)

    assert differences(left(b"v", 5000), left(b"v", 5900)) == []
    assert differences(left(b"v", 5000), left(b"v", 5000, 60.0)) == [], "EX counts from the command"
    assert differences(left(b"v", 65_000), left(b"v", 5000, 60.0)) == [], "EXAT ends at a point in time"
    assert differences(left(b"v", 35_000), left(b"v", 5000, 60.0))
    assert differences(left(b"v", -1), left(b"w", -1))
    assert differences(left(b"v", -1), left(b"v", 5000))
    assert differences(left(b"v", 5000), left(b"v", 9000))
    assert differences(left(b"v", -1), Transcript([], [], {}))


def test_pushes_are_compared() -> None:
    push = Frame(">", [Frame("$", b"message")])
    assert differences(Transcript([], [push], {}), Transcript([], [], {}))


def words(*texts: str) -> Frame:
    return Frame("*", [Frame("$", text.encode()) for text in texts])


@pytest.mark.parametrize(
    ("command", "one", "other", "same"),
    [
        ("GET k", Frame("$", None), Frame("_", None), False),
        ("GET k", Frame("$", None), Frame("*", None), False),
        ("GET k", Frame("$", b"1"), Frame(":", b"1"), False),
        ("TTL k", Frame(":", b"100"), Frame(":", b"99"), True),
        ("TTL k", Frame(":", b"-1"), Frame(":", b"-2"), False),
        ("PTTL k", Frame(":", b"100"), Frame(":", b"9000"), False),
        ("KEYS *", words("a", "b"), words("b", "a"), True),
        ("KEYS *", words("a"), words("b"), False),
        ("MGET a b", words("a", "b"), words("b", "a"), False),
        ("RANDOMKEY", Frame("$", b"a"), Frame("$", b"b"), True),
        ("RANDOMKEY", Frame("$", None), Frame("$", b"b"), False),
        ("BITCOUNT k x", Frame("-", b"ERR syntax error"), Frame(":", b"0"), True),
        ("BITCOUNT k x", Frame("-", b"ERR syntax error"), Frame(":", b"5"), False),
        ("STRLEN k", Frame("-", b"ERR syntax error"), Frame(":", b"0"), False),
        ("SCAN -1", Frame("-", b"ERR invalid cursor"), Frame("*", []), True),
        ("SCAN 1", Frame("-", b"ERR invalid cursor"), Frame("*", []), False),
        ("DBSIZE", Frame(":", b"1"), Frame(":", b"2"), True),
        ("DBSIZE", Frame(":", b"2"), Frame(":", b"1"), False),
        ("OBJECT ENCODING k", Frame("$", b"embstr"), Frame("$", b"raw"), True),
        ("OBJECT ENCODING k", Frame("$", b"raw"), Frame("$", b"embstr"), False),
        ("CLIENT HELP", words("Print this help."), words("Prints this help."), True),
        ("CLIENT HELP", words("Nothing."), words("Prints this help."), False),
    ],
)  # fmt: skip
def test_what_counts_as_the_same(command: str, one: Frame, other: Frame, same: bool) -> None:
    argv = command.encode().split()
    assert same_reply(Reply(argv, one, [], 0.0), Reply(argv, other, [], 0.0)) is same


def test_replies_inside_exec_are_judged_by_their_commands() -> None:
    def exec_of(name: bytes, *values: bytes) -> Reply:
        return Reply([b"EXEC"], Frame("*", [Frame(":", value) for value in values]), [[name, b"k"]], 0.0)

    assert same_reply(exec_of(b"TTL", b"100"), exec_of(b"TTL", b"99"))
    assert not same_reply(exec_of(b"STRLEN", b"100"), exec_of(b"STRLEN", b"99"))
    assert not same_reply(exec_of(b"TTL", b"100"), exec_of(b"TTL"))


def test_a_sequence_is_its_seed() -> None:
    assert sequence(7, 40) == sequence(7, 40) != sequence(8, 40)


def test_minimising_keeps_what_is_needed() -> None:
    commands = [[b"%d" % number] for number in range(50)]
    calls = 0

    def differs(part: list[list[bytes]]) -> bool:
        nonlocal calls
        calls += 1
        return [b"11"] in part and [b"40"] in part

    assert minimise(commands, differs) == [[b"11"], [b"40"]]
    assert calls < 200
