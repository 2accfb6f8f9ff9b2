"""EXEC that is refused before it begins discards its transaction, whatever the reason."""

from __future__ import annotations

from respkv.testing.node_driver import NodeDriver

PREFIX = b"-EXECABORT Transaction discarded because of: "


def test_exec_while_subscribed_and_before_authentication() -> None:
    client = NodeDriver().connect()
    client.call("SUBSCRIBE", "a")
    assert client.call("EXEC").startswith(PREFIX + b"Can't execute 'exec': only (P|S)SUBSCRIBE")
    client = NodeDriver(requirepass="x").connect()
    assert client.call("EXEC") == PREFIX + b"NOAUTH Authentication required.\r\n"
