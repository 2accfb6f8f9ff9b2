"""MULTI and WATCH: what counts as a change of a watched key, what may stand in a queue, and SWAPDB's arguments."""

from __future__ import annotations

from compat.cases import Case, case


def _watched(name: str, *lines: str) -> Case:
    """Each line is run between WATCH of all the keys there are and a transaction that tells whether they changed."""
    commands = [line for change in lines for line in ("WATCH a b h n absent", change, "MULTI", "PING", "EXEC")]
    return case(name, "MSET a text b 2 n 1", "HSET h f v g w", *commands)


CASES: list[Case] = [
    _watched(
        "changes of strings",
        "SET a text",
        "SET a x NX",
        "SETNX a x",
        "SETRANGE a 0 ''",
        "APPEND a ''",
        "APPEND absent ''",
        "INCRBY n 0",
        "GETEX a",
        "GETEX a EX 100",
        "GETEX a PERSIST",
        "GETDEL nothing",
        "MSETNX n 1 absent 2",
        "MSETNX other 1 absent 2",
        "SETBIT b 0 0",
        "BITFIELD b SET u1 0 0",
        "BITFIELD b GET u1 0",
        "BITOP AND nothing x y",
        "BITOP AND n x y",
    ),
    _watched(
        "changes of keys",
        "EXPIRE nothing 100",
        "EXPIRE h 100",
        "PERSIST h",
        "PERSIST h",
        "RENAME a a",
        "RENAMENX a b",
        "COPY a other",
        "COPY a b",
        "COPY a b REPLACE",
        "TOUCH a h",
        "MOVE n 1",
        "EXPIRE h -1",
        "DEL nothing",
        "UNLINK a",
        "FLUSHDB",
        "FLUSHALL",
    ),
    _watched(
        "changes of hashes",
        "HSET h f v",
        "HSETNX h f x",
        "HINCRBY h i 0",
        "HDEL h nothing",
        "HDEL h f",
        "HSET a f v",
        "HSET absent f v",
    ),
    case(
        "what had expired before it was watched may go",
        "DEBUG SET-ACTIVE-EXPIRE 0",
        *(
            line
            for change in ("GET k", "DEL k", "FLUSHALL", "SWAPDB 0 1", "SET k w")
            for line in ("SET k v PX 10", "DEBUG SLEEP 0.03", "WATCH k", change, "MULTI", "PING", "EXEC")
        ),
        "DEBUG SET-ACTIVE-EXPIRE 1",
    ),
    case(
        "what expires while it is watched",
        "SET k v PX 10",
        "WATCH k",
        "DEBUG SLEEP 0.03",
        "MULTI",
        "PING",
        "EXEC",
        "GET k",
    ),
    case(
        "swapdb",
        "SET k v",
        "SWAPDB 0 1",
        "GET k",
        "SWAPDB 1 0",
        "GET k",
        "SWAPDB 0 0",
        "SWAPDB x 16",
        "SWAPDB 16 x",
        "SWAPDB 0 16",
        "SWAPDB -1 0",
        "SWAPDB 0 2147483647",
        "SWAPDB 0 2147483648",
        "SWAPDB -2147483649 0",
        "SWAPDB",
        "SWAPDB 0",
    ),
    case(
        "a queue",
        *("MULTI", "MULTI", "EXEC"),
        *("MULTI", "WATCH a", "EXEC"),
        *("MULTI", "GET", "SET a 1", "EXEC"),
        *("MULTI", "CLIENT FOO", "EXEC"),
        *("MULTI", "SELECT 1", "SET k v", "SELECT 16", "EXEC", "GET k", "SELECT 0", "GET k"),
        *("MULTI", "SET a 1 PX 10", "DEBUG SLEEP 0.03", "GET a", "EXEC", "GET a"),
        *("MULTI", "INCR a", "HSET a f v", "INCR a", "GETDEL a", "EXEC"),
        *("MULTI", "HSET h a 1", "HDEL h a", "EXISTS h", "HSET h b 2", "HGETALL h", "RENAME h i", "HLEN i", "EXEC"),
        *("MULTI", "PING", "FLUSHALL", "DBSIZE", "SET k v", "DBSIZE", "KEYS *", "EXEC"),
        *("HSET h f v", "MULTI", "HELLO 3", "HGETALL h", "HELLO 2", "HGETALL h", "HELLO 3", "GET absent", "EXEC"),
        *("MULTI", "RESET", "EXEC"),
        *("MULTI", "UNWATCH", "WAIT 0 0", "EXEC"),
        *("EXEC", "DISCARD", "MULTI", "DISCARD", "DISCARD"),
    ),
]
