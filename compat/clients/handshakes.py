"""What client libraries send before the first command of the application, and what they need in return.

A step is (command, need). Needs:

    "ok"            the status OK
    "hello"         the map of HELLO 3 with everything libraries read from it
    "integer", "text", "null", "list", "map"    a reply of that form
    "has:<text>"    a bulk or verbatim string that contains the text
    "error:<text>"  an error that begins with the text; the library goes on
"""

from __future__ import annotations

from typing import Final

from compat.clients.raw import Frame

Step = tuple[str, str]

_NO_CLUSTER: Final = "error:ERR This instance has cluster support disabled"
_NO_NOTICES: Final = "error:ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP."
_SETINFO: Final[list[Step]] = [
    ("CLIENT SETINFO LIB-NAME lib", "ok"),
    ("CLIENT SETINFO LIB-VER 1.2.3", "ok"),
]

#: By library, each a connection of its own that sends its steps in one piece.
HANDSHAKES: Final[dict[str, list[Step]]] = {
    "redis-py 8": [
        ("HELLO 3", "hello"),
        ("CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type internal-ip", _NO_NOTICES),
        *_SETINFO,
        ("SELECT 1", "ok"),
        ("COMMAND GETKEYS SET k v", "list"),
    ],
    "redis-py 7": [("CLIENT SETNAME app", "ok"), *_SETINFO, ("SELECT 1", "ok")],
    "coredis 6": [("HELLO 3", "hello"), *_SETINFO],
    "valkey-glide": [("HELLO 3", "hello"), *_SETINFO, ("INFO REPLICATION", "has:role:master")],
    "ioredis 5": [
        ("SELECT 0", "ok"),
        ("CLIENT SETNAME app", "ok"),
        ("READONLY", _NO_CLUSTER),
        *_SETINFO,
        ("INFO", "has:loading:0"),
    ],
    "ioredis 6": [("HELLO 3", "hello"), ("SELECT 0", "ok"), *_SETINFO, ("INFO", "has:loading:0")],
    "node-redis 6": [
        ("HELLO 3 AUTH default any SETNAME app", "hello"),
        ("SELECT 2", "ok"),
        *_SETINFO,
        ("CLIENT GETNAME", "has:app"),
    ],
    "Jedis 8": [("HELLO 3", "hello"), ("CLIENT SETNAME app", "ok"), *_SETINFO, ("SELECT 0", "ok"), ("PING", "text")],
    "Lettuce": [("HELLO 3 SETNAME app", "hello"), *_SETINFO, ("COMMAND", "list"), ("INFO", "has:connected_clients:")],
    "go-redis 9": [
        ("HELLO 3 SETNAME app", "hello"),
        ("SELECT 0", "ok"),
        ("CLIENT SETNAME app", "ok"),
        ("CLIENT MAINT_NOTIFICATIONS ON", _NO_NOTICES),
        *_SETINFO,
        ("COMMAND", "list"),
    ],
    "redis-rs": [("AUTH default any", "ok"), ("SELECT 1", "ok"), *_SETINFO],
    "StackExchange.Redis": [
        ("AUTH default any", "ok"),
        ("HELLO 2", "list"),
        ("CLIENT SETNAME app", "ok"),
        *_SETINFO,
        ("CLIENT ID", "integer"),
        ("CONFIG GET timeout", "list"),
        ("CONFIG GET replica-read-only", "list"),
        ("CONFIG GET databases", "list"),
        ("SENTINEL MASTERS", "error:ERR unknown command"),
        ("INFO replication", "has:role:master"),
        ("INFO server", "has:redis_version:"),
        ("CLUSTER NODES", _NO_CLUSTER),
        ("GET __Booksleeve_TieBreak", "null"),
        ("ECHO 0123456789abcdef", "has:0123456789abcdef"),
    ],
    "StackExchange.Redis, second connection": [
        ("CLIENT SETNAME app", "ok"),
        ("SUBSCRIBE __Booksleeve_MasterChanged", "list"),
    ],
    "phpredis": [("AUTH default any", "ok"), ("SELECT 1", "ok"), ("ECHO liveness", "has:liveness")],
    "redis-client (Ruby)": [("HELLO 3", "hello"), ("SELECT 0", "ok"), *_SETINFO, ("ROLE", "list")],
    "memtier_benchmark": [("SELECT 1", "ok"), ("PING", "text")],
}  # fmt: skip


def met(need: str, frame: Frame) -> bool:
    """Whether a reply is what a library needs."""
    form, _, text = need.partition(":")
    if form == "hello":
        return _is_greeting(frame)
    if form == "ok":
        return frame == Frame("+", b"OK")
    if form == "has":
        return frame.kind in "$=" and frame.value is not None and text.encode() in frame.value
    if form == "error":
        return frame.is_error() and frame.value.startswith(text.encode())
    kinds = {"integer": ":", "text": "+$=", "null": "$_", "list": "*~", "map": "%"}[form]
    return frame.kind in kinds and (frame.value is None) is (form == "null")


def _is_greeting(frame: Frame) -> bool:
    if frame.kind != "%" or len(frame.value) != 14:
        return False
    names, values = frame.value[::2], frame.value[1::2]
    wanted = [b"server", b"version", b"proto", b"id", b"mode", b"role", b"modules"]
    return (
        [name.value for name in names] == wanted
        and "".join(value.kind for value in values) == "$$::$$*"
        and values[0].value == b"redis"
        # coredis compares as text.
        and values[1].value >= b"7.2"
        and values[2].value == b"3"
        and (values[4].value, values[5].value) == (b"standalone", b"master")
    )
