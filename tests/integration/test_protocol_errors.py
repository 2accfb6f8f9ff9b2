"""Malformed input gets the answer that Redis gives: the same bytes, and the connection closed or not.

Redis' answers come from a live server where there is one, else from ``compat/reference/protocol_errors.json``. Run this
file as a program to record them anew.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

RECORDED = Path(__file__).resolve().parents[2] / "compat" / "reference" / "protocol_errors.json"
PASSWORD = "secret"
#: A request to follow the input, and how its reply ends; one for clients that have not authenticated.
ECHO_DONE = (b"*2\r\n$4\r\nECHO\r\n$4\r\ndone\r\n", b"$4\r\ndone\r\n")
AUTH_DONE = (b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n", b"+OK\r\n")
ALONE = (b"", b"")
PING = b"*1\r\n$4\r\nPING\r\n"
ECHO = b"*2\r\n$4\r\nECHO\r\n"

SHORT: dict[str, bytes] = {
    "count too large": b"*2147483648\r\n",
    "count beyond 64 bits": b"*99999999999999999999\r\n",
    "count not a number": b"*a\r\n",
    "count missing": b"*\r\n",
    "count with zero": b"*01\r\n",
    "count with sign": b"*+1\r\n",
    "count minus zero": b"*-0\r\n",
    "count with space": b"*1 \r\n",
    "count zero": b"*0\r\n",
    "count minus one": b"*-1\r\n",
    "count very negative": b"*-5\r\n",
    "bulk negative": b"*1\r\n$-1\r\n",
    "bulk not a number": b"*1\r\n$x\r\n",
    "bulk missing": b"*1\r\n$\r\n",
    "bulk too long": b"*1\r\n$536870913\r\n",
    "bulk far too long": ECHO + b"$99999999999999\r\n",
    "bulk beyond 64 bits": ECHO + b"$99999999999999999999\r\n",
    "argument integer": ECHO + b":5\r\n",
    "argument simple": ECHO + b"+a\r\n",
    "argument error": ECHO + b"-ERR\r\n",
    "argument array": ECHO + b"*1\r\n$1\r\na\r\n",
    "argument null": ECHO + b"_\r\n",
    "argument true": ECHO + b"#t\r\n",
    "argument double": ECHO + b",1.5\r\n",
    "argument big number": ECHO + b"(12\r\n",
    "argument set": ECHO + b"~1\r\n$1\r\na\r\n",
    "argument map": ECHO + b"%1\r\n$1\r\na\r\n$1\r\nb\r\n",
    "argument push": ECHO + b">1\r\n$1\r\na\r\n",
    "argument verbatim": ECHO + b"=5\r\ntxt:a\r\n",
    "argument letter": ECHO + b"a\r\n",
    "argument blank line": ECHO + b"\r\n\r\n",
    "two bytes unchecked": b"*2\r\n$4\r\nECHOxx$1\r\na!!",
    "cr and any byte": b"*1\rX$4\rYPING\r\n",
    "root simple string": b"+OK\r\n",
    "root integer": b":1\r\n",
    "root bulk": b"$-1\r\n",
    "root null": b"_\r\n",
    "root false": b"#f\r\n",
    "root set": b"~0\r\n",
    "root set of a command": b"~1\r\n$4\r\nPING\r\n",
    "inline": b"ECHO a\r\n",
    "inline line feed": b"ECHO a\n",
    "inline spaces": b"  ECHO \t a  \r\n",
    "inline quotes": b'ECHO "a b\\x41\\n\\r\\t\\a\\b\\q\\""\r\n',
    "inline single quotes": b"ECHO 'a \\' \\n \"'\r\n",
    "inline quotes within": b'ECHO a"b c"\r\n',
    "inline empty word": b'ECHO ""\r\n',
    "inline vertical tab": b"ECHO a\vb\r\n",
    "inline open quote": b'ECHO "a\r\n',
    "inline open single quote": b"ECHO 'a\r\n",
    "inline quote then letter": b'ECHO "a"b\r\n',
    "blank line": b"\r\n",
    "lone line feed": b"\n",
    "only spaces": b"   \r\n",
    "browser": b"POST / HTTP/1.1\r\n",
    "browser header": b"Host: localhost\r\n",
    "browser in an array": b"*1\r\n$4\r\npost\r\n",
    "get is a command": b"GET / HTTP/1.1\r\n",
}
#: Sent alone: what follows would be part of it.
LONG: dict[str, bytes] = {
    "too big inline": b"a" * 65537,
    "too big count line": b"*" + b"1" * 65536,
    "too big bulk line": b"*1\r\n$" + b"1" * 65536,
}
UNAUTHENTICATED: dict[str, bytes] = {
    "eleven arguments": b"*11\r\n",
    "ten arguments": b"*10\r\n$4\r\nMGET\r\n" + b"$1\r\na\r\n" * 9,
    "bulk over 16 KiB": b"*1\r\n$16385\r\n",
    "bulk of 16 KiB": ECHO + b"$16384\r\n" + b"a" * 16384 + b"\r\n",
}

Answer = dict[str, Any]


def ask(host: str, port: int, data: bytes, follow: tuple[bytes, bytes]) -> Answer:
    """Everything that comes back until the server closes, or answers the request that follows ``data``."""
    request, done = follow
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(data + request)
        reply = b""
        while True:
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                piece = b""
            reply += piece
            if not piece:
                return {"reply": reply.decode("latin-1"), "closed": True}
            if done and reply.endswith(done):
                return {"reply": reply.decode("latin-1"), "closed": False}


def ask_all(host: str, port: int, protected: tuple[str, int]) -> dict[str, Answer]:
    """The answers to every input: alone, and behind a pipeline."""
    answers: dict[str, Answer] = {}
    for name, data in SHORT.items():
        answers[name] = ask(host, port, data, ECHO_DONE)
        if name.startswith("browser"):
            continue  # Redis drops replies that are not yet sent; we send them.
        answers[f"{name}, pipelined"] = ask(host, port, PING * 40 + data + PING, ECHO_DONE)
    for name, data in LONG.items():
        answers[name] = ask(host, port, data, ALONE)
    for name, data in UNAUTHENTICATED.items():
        answers[f"unauthenticated: {name}"] = ask(*protected, data, AUTH_DONE)
    return answers


@contextlib.contextmanager
def live_redis(*options: str) -> Iterator[tuple[str, int]]:
    """A redis-server of our own on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        command = [
            "redis-server",
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            directory,
            *options,
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            give_up = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < give_up, (
                        "redis-server does not start"
                    )
                    time.sleep(0.02)
            yield "127.0.0.1", port
        finally:
            process.terminate()
            process.wait(20)


def ask_live_redis() -> dict[str, Answer]:
    with live_redis() as (host, port), live_redis("--requirepass", PASSWORD) as protected:
        return ask_all(host, port, protected)


def recorded() -> dict[str, Answer]:
    answers: dict[str, Answer] = json.loads(RECORDED.read_text())
    return answers


@pytest.fixture(scope="module")
def reference() -> dict[str, Answer]:
    return ask_live_redis() if shutil.which("redis-server") else recorded()


def test_recorded_answers_are_those_of_redis() -> None:
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed; the recorded answers stand for it")
    assert recorded() == ask_live_redis()


def test_answers_are_those_of_redis(
    respkv_server: Any, start_server: Callable[..., Any], reference: dict[str, Answer]
) -> None:
    protected = start_server(requirepass=PASSWORD)
    ours = ask_all(respkv_server.host, respkv_server.port, (protected.host, protected.port))
    assert list(ours) == list(reference)
    different = {
        name: (answer, reference[name]) for name, answer in ours.items() if answer != reference[name]
    }
    assert different == {}


if __name__ == "__main__":
    RECORDED.parent.mkdir(parents=True, exist_ok=True)
    RECORDED.write_text(json.dumps(ask_live_redis(), indent=1) + "\n")
    sys.exit(0)
