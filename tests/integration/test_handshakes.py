"""The first words of every client library are answered as it needs."""

from __future__ import annotations

import pytest

from compat.clients.handshakes import HANDSHAKES, met
from compat.clients.raw import Frame, RawConnection, show
from tests.integration.conftest import ServerProcess


@pytest.mark.parametrize("library", HANDSHAKES)
def test_handshake(library: str, respkv_server: ServerProcess) -> None:
    steps = HANDSHAKES[library]
    connection = RawConnection(respkv_server.host, respkv_server.port)
    connection.send(*(command.encode().split() for command, _ in steps))
    for command, need in steps:
        frame = connection.read()
        assert met(need, frame), f"{command}: {show(frame)[:300]}, needed {need}"
    connection.close()


def test_a_library_without_the_password_learns_why(respkv_server: ServerProcess) -> None:
    connection = RawConnection(respkv_server.host, respkv_server.port)
    reply = connection.call("HELLO", "3", "AUTH", "nobody", "x", "SETNAME", "app")
    assert met("error:WRONGPASS ", reply), show(reply)
    assert connection.call("CLIENT", "GETNAME") == Frame("$", None), "nothing was taken from the failed HELLO"
    connection.close()


@pytest.mark.parametrize(
    ("need", "frame"),
    [
        ("ok", Frame("$", b"OK")),
        ("hello", Frame("*", [])),
        ("hello", Frame("%", [])),
        ("integer", Frame("$", b"1")),
        ("list", Frame("*", None)),
        ("null", Frame("$", b"")),
        ("has:role:master", Frame("$", b"role:slave")),
        ("has:x", Frame("$", None)),
        ("error:ERR unknown command", Frame("-", b"ERR syntax error")),
        ("error:ERR", Frame("+", b"ERR")),
    ],
)
def test_what_does_not_do(need: str, frame: Frame) -> None:
    assert not met(need, frame)
