"""Compare respkv with a live Redis: every written case and as many random sequences as wanted.

    python compat/differential.py --port P                      written cases, then random sequences
    python compat/differential.py --port P --seed S --count N   N random sequences from seed S on
    python compat/differential.py --record                      write what Redis answers to the cases

Without ``--port`` a server is started from this source tree. The first random difference is printed in its
shortest form, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import pkgutil
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compat import cases as case_modules
from compat import documented
from compat.cases import Case
from compat.clients import redis_server
from compat.clients.raw import Frame, RawConnection
from compat.comparison import Reply, Server, Stored, Transcript, differences, observe, observe_steps
from compat.known import EXPECTED
from compat.sequences import Step, minimise, sequence

HOST: Final = "127.0.0.1"
ANSWERS: Final = Path(__file__).parent / "reference" / "answers.json"
PROTOCOLS: Final = (2, 3)
#: Commands of one random sequence.
LENGTH: Final = 60


def cases(newest: str = "7.0") -> dict[str, Case]:
    """The cases that a Redis of this version answers alike, by ``module/name``."""
    found = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(case_modules.__path__)):
        for case in importlib.import_module(f"compat.cases.{module}").CASES:
            if case.since != "own" and version(case.since) <= version(newest):
                assert f"{module}/{case.name}" not in found, f"{module}: {case.name} twice"
                found[f"{module}/{case.name}"] = case
    return found


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def server_version(server: Server) -> str:
    """What a server says of itself in INFO."""
    connection = RawConnection(server.host, server.port)
    text: bytes = connection.call("INFO", "server").value
    connection.close()
    return text.split(b"redis_version:")[1].split(b"\r\n")[0].decode()


def unexpected(name: str, ours: Transcript, theirs: Transcript) -> list[str]:
    """Differences without those that are meant to be (``compat.known``)."""
    expected = EXPECTED.get(name, {})
    return [line for line in differences(ours, theirs) if not any(part in line for part in expected)]


def unused_expectations(name: str, ours: Transcript, theirs: Transcript) -> list[str]:
    """Expected differences that are not there any more."""
    lines = differences(ours, theirs)
    return [part for part in EXPECTED.get(name, {}) if not any(part in line for line in lines)]


def compare_case(name: str, case: Case, protocol: int, ours: Server, theirs: Server) -> list[str]:
    """Unexpected differences of one case between the servers on two ports."""
    return unexpected(name, observe(ours, protocol, case.commands), observe(theirs, protocol, case.commands))


def compare_sequence(steps: Sequence[Step], protocol: int, ours: Server, theirs: Server) -> list[str]:
    """Differences of one sequence."""
    return differences(observe_steps(ours, protocol, steps), observe_steps(theirs, protocol, steps))


class Difference(NamedTuple):
    """What a seed showed: the shortest sequence that differs, and how."""

    seed: int
    protocol: int
    steps: list[Step]
    lines: list[str]


def first_difference(seeds: range, ours: Server, theirs: Server, *, end_s: float = float("inf")) -> Difference | int:
    """The difference of the first seed that has one; else how many seeds agreed until the end of the range or of the
    time (``time.monotonic``)."""
    for agreed, seed in enumerate(seeds):
        if time.monotonic() > end_s:
            return agreed
        make = documented.sequence if seed % 3 == 2 else sequence
        protocol, steps = PROTOCOLS[seed // 2 % 2], make(seed, LENGTH)
        shortest = _shortest(steps, protocol, ours, theirs)
        if shortest:
            return Difference(seed, protocol, shortest, compare_sequence(shortest, protocol, ours, theirs))
    return len(seeds)


def _shortest(steps: list[Step], protocol: int, ours: Server, theirs: Server) -> list[Step]:
    """What is left of a sequence that differs, nothing when it agrees."""

    def differs(part: list[Step]) -> bool:
        """Whether it differs twice: EXPIRE k 100 GT after EXPIRE k 100 depends on the millisecond, once."""
        return all(compare_sequence(part, protocol, ours, theirs) for _ in range(2))

    return minimise(steps, differs) if differs(steps) else []


def explain(found: Difference) -> str:
    """A difference for people, with commands one can type; a number in front tells the client."""
    several = any(step.client for step in found.steps)
    text = [f"seed {found.seed}, RESP{found.protocol}:"]
    for step in found.steps:
        typed = " ".join(shlex.quote(word.decode("latin-1")) for word in step.command)
        text.append(f"    {f'{step.client}> ' if several else ''}{typed}")
    return "\n".join(text + found.lines)


# Recorded answers: {"redis": version, "cases": {name: {"commands": digest, "2": transcript, "3": transcript}}}


def digest(case: Case) -> str:
    """Changes with the commands of a case."""
    return hashlib.sha256(repr(case.commands).encode()).hexdigest()[:16]


def record(theirs: Server) -> dict[str, Any]:
    """What the server on a port answers to every case of its age."""
    release = server_version(theirs)
    recorded: dict[str, Any] = {}
    for name, case in cases(release).items():
        entry: dict[str, Any] = {"commands": digest(case)}
        for protocol in PROTOCOLS:
            entry[str(protocol)] = _plain(observe(theirs, protocol, case.commands))
        recorded[name] = entry
    return {"redis": release, "cases": recorded}


def recorded_transcript(entry: dict[str, Any], case: Case, protocol: int) -> Transcript:
    """A transcript from its recorded form."""
    plain = entry[str(protocol)]
    replies = [
        Reply(command, _frame(frame), [[_bytes(word) for word in line] for line in queued], at_s)
        for command, (frame, queued, at_s) in zip(case.commands, plain["replies"], strict=True)
    ]
    stored = {
        (database, _bytes(key)): Stored(_bytes(kind), _frame(value), pttl)
        for database, key, kind, value, pttl in plain["stored"]
    }
    return Transcript(replies, [_frame(item) for item in plain["pushes"]], stored, plain["ended"])


def _plain(transcript: Transcript) -> dict[str, Any]:
    return {
        "replies": [
            [_text(reply.frame), [[_latin(word) for word in line] for line in reply.queued], round(reply.at_s, 3)]
            for reply in transcript.replies
        ],
        "ended": round(transcript.ended_s, 3),
        "pushes": [_text(item) for item in transcript.pushes],
        "stored": [
            [database, _latin(key), _latin(item.kind), _text(item.value), item.pttl]
            for (database, key), item in sorted(transcript.stored.items())
        ],
    }


def _text(frame: Frame) -> list[Any]:
    if isinstance(frame.value, list):
        return [frame.kind, [_text(item) for item in frame.value]]
    return [frame.kind, None if frame.value is None else _latin(frame.value)]


def _frame(plain: list[Any]) -> Frame:
    kind, value = plain
    if isinstance(value, list):
        return Frame(kind, [_frame(item) for item in value])
    return Frame(kind, None if value is None else _bytes(value))


def _latin(data: bytes) -> str:
    return data.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


@contextmanager
def _respkv(*arguments: str) -> Iterator[int]:
    """A server from this source tree; its port."""
    port = redis_server.free_port()
    root = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory(prefix="respkv-") as directory:
        words = [sys.executable, "-m", "respkv", "--port", str(port), "--bind", HOST, "--dir", directory]
        process = subprocess.Popen(
            [*words, "--enable-debug-command", "yes", "--logfile", "server.log", *arguments],
            env={**os.environ, "PYTHONPATH": root},
        )
        try:
            redis_server.wait(process, port)
            yield port
        finally:
            process.terminate()
            process.wait(60)


def _run_cases(ours: Server, theirs: Server) -> bool:
    agreed = True
    for name, case in cases(server_version(theirs)).items():
        for protocol in PROTOCOLS:
            lines = compare_case(name, case, protocol, ours, theirs)
            if lines:
                agreed = False
                print(f"{name}, RESP{protocol}:", *lines, sep="\n    ", flush=True)
    return agreed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, help="a running respkv (it is emptied); else one is started")
    parser.add_argument("--redis-port", type=int, help="a running Redis (it is emptied); else one is started")
    parser.add_argument("--seed", type=int, default=None, help="first random sequence; leaves out the written cases")
    parser.add_argument("--count", type=int, default=200, help="random sequences")
    parser.add_argument("--record", action="store_true", help=f"write {ANSWERS.name}")
    options = parser.parse_args()
    with nullcontext(options.redis_port) if options.redis_port else redis_server.running() as redis_port:
        theirs = Server(redis_port)
        if options.record:
            text = json.dumps(record(theirs), separators=(",", ":"), ensure_ascii=True)
            ANSWERS.write_text(text.replace('},"', '},\n"') + "\n")
            return 0
        with nullcontext(options.port) if options.port else _respkv() as port:
            ours = Server(port)
            agreed = options.seed is not None or _run_cases(ours, theirs)
            first = options.seed or 0
            found = first_difference(range(first, first + options.count), ours, theirs)
            if not isinstance(found, int):
                print(explain(found))
            return 0 if agreed and isinstance(found, int) else 1


if __name__ == "__main__":
    sys.exit(main())
