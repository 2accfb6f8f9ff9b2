"""Every error a client can see: code and text, finished lines.

Redis' words (7.4), since clients compare them. Constants are complete replies; functions fill in a
name. Raise them through ``CommandError``.
"""

from __future__ import annotations

from typing import Final

from respkv.base.errors import CommandError
from respkv.resp.reply import error

SYNTAX: Final = error(b"ERR syntax error")
NOT_INTEGER: Final = error(b"ERR value is not an integer or out of range")
NOT_FLOAT: Final = error(b"ERR value is not a valid float")
OUT_OF_RANGE: Final = error(b"ERR value is out of range")
OVERFLOW: Final = error(b"ERR increment or decrement would overflow")
DECR_OVERFLOW: Final = error(b"ERR decrement would overflow")
NAN_OR_INFINITY: Final = error(b"ERR increment would produce NaN or Infinity")
NO_SUCH_KEY: Final = error(b"ERR no such key")
INDEX_OUT_OF_RANGE: Final = error(b"ERR index out of range")
INVALID_CURSOR: Final = error(b"ERR invalid cursor")
DB_INDEX: Final = error(b"ERR DB index is out of range")
SAME_OBJECT: Final = error(b"ERR source and destination objects are the same")
STRING_TOO_LONG: Final = error(b"ERR string exceeds maximum allowed size (proto-max-bulk-len)")
OFFSET_RANGE: Final = error(b"ERR offset is out of range")
BIT_OFFSET: Final = error(b"ERR bit offset is not an integer or out of range")
BIT_VALUE: Final = error(b"ERR bit is not an integer or out of range")
BIT_ARGUMENT: Final = error(b"ERR The bit argument must be 1 or 0.")
TIMEOUT_NEGATIVE: Final = error(b"ERR timeout is negative")
TIMEOUT_NOT_INTEGER: Final = error(b"ERR timeout is not an integer or out of range")
HASH_NOT_INTEGER: Final = error(b"ERR hash value is not an integer")
HASH_NOT_FLOAT: Final = error(b"ERR hash value is not a float")
WRONG_TYPE: Final = error(b"WRONGTYPE Operation against a key holding the wrong kind of value")
NO_AUTH: Final = error(b"NOAUTH Authentication required.")
NO_AUTH_HELLO: Final = error(
    b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH"
    b" <user> <pass> option can be used to authenticate the client and select the RESP protocol version at"
    b" the same time"
)
WRONG_PASS: Final = error(b"WRONGPASS invalid username-password pair or user is disabled.")
AUTH_NOT_CONFIGURED: Final = error(
    b"ERR AUTH <password> called without any password configured for the default user."
    b" Are you sure your configuration is correct?"
)
NO_PROTO: Final = error(b"NOPROTO unsupported protocol version")
PROTO_NOT_INTEGER: Final = error(b"ERR Protocol version is not an integer or out of range")
EXEC_ABORT: Final = error(b"EXECABORT Transaction discarded because of previous errors.")
EXEC_WITHOUT_MULTI: Final = error(b"ERR EXEC without MULTI")
DISCARD_WITHOUT_MULTI: Final = error(b"ERR DISCARD without MULTI")
NESTED_MULTI: Final = error(b"ERR MULTI calls can not be nested")
WATCH_IN_MULTI: Final = error(b"ERR WATCH inside MULTI is not allowed")
NOT_IN_MULTI: Final = error(b"ERR Command not allowed inside a transaction")
#: Redis' beginning, which clients look for, with the limit that it is here.
MAX_DISK: Final = error(b"OOM command not allowed when disk used > 'max-disk'.")
LOADING: Final = error(b"LOADING Redis is loading the dataset in memory")
DISK_FULL: Final = error(
    b"MISCONF Errors writing to the disk: no space left. Writes are refused until there is room again;"
    b" reads go on. Free space on the disk that holds the data directory."
)
CORRUPT: Final = error(
    b"CORRUPT stored data failed its checksum; the value is not served. Run respkv-check on the data"
    b" directory and restore it from a snapshot."
)
KEY_TOO_LONG: Final = error(
    b"ERR key is too long (limit 1 MiB, the name of a hash field included); nothing was changed. Use a hash of it"
    b" as the key, and keep the rest in the value."
)
TOO_MUCH_AT_ONCE: Final = error(
    b"ERR one command or transaction writes more than 2 GiB; nothing was changed. Split it into smaller ones."
)
NO_REPLICAS: Final = error(
    b"NOREPLICAS Not enough replicas of the key can be reached for this consistency level; nothing was changed."
    b" Try again, or use a lower level (RKV.LEVEL eventual)."
)
OUTCOME_UNKNOWN: Final = error(
    b"TIMEOUT outcome unknown: not enough replicas confirmed the write in time, and it may still take effect."
    b" Read the key before writing again."
)
TRY_AGAIN: Final = error(
    b"TRYAGAIN Too much is queued for other replicas of the key; nothing was changed. Try again in a moment."
)
FORMING: Final = error(b"LOADING The ring is being formed: waiting for its other nodes. See RKV.STATUS.")


def kept_out(reason: str) -> bytes:
    """A node that was told that it will never be a member of the ring; waiting would not help."""
    return error(
        b"CLUSTERDOWN This node is not a member of the cluster and will not become one (%b). Stop it, and start it with"
        b" the directory that it had, or use another node" % reason.encode("ascii", "replace")
    )


NOT_ON_A_RING: Final = error(b"ERR This command is not available on a ring")
MAX_CLIENTS: Final = error(b"ERR max number of clients reached")
CLUSTER_DISABLED: Final = error(b"ERR This instance has cluster support disabled")
BUSY_KEY: Final = error(b"BUSYKEY Target key name already exists.")
BAD_PAYLOAD: Final = error(b"ERR DUMP payload version or checksum are wrong")
NO_KEY_ARGUMENTS: Final = error(b"ERR The command has no key arguments")
INVALID_COMMAND: Final = error(b"ERR Invalid command specified")
INVALID_ARGUMENT_COUNT: Final = error(b"ERR Invalid number of arguments specified for command")


def wrong_arity(name: str) -> bytes:
    """``name`` is the command's full lower-case name, ``client|setname`` for a subcommand."""
    return error(b"ERR wrong number of arguments for '%b' command" % name.encode())


def unknown_command(argv: list[bytes]) -> bytes:
    """Redis shows the first arguments, cut to 128 characters in all."""
    shown = b""
    for argument in argv[1:]:
        if len(shown) >= 128:
            break
        shown += b"'%b' " % argument[: 128 - len(shown)]
    return error(b"ERR unknown command '%b', with args beginning with: %b" % (argv[0][:128], shown))


def unknown_subcommand(container: str, subcommand: bytes) -> bytes:
    """The answer to ``CLIENT FOO``."""
    return error(
        b"ERR unknown subcommand '%b'. Try %b HELP." % (subcommand[:128], container.upper().encode())
    )


def invalid_expire(command: str) -> bytes:
    """An expiry that is zero, negative or beyond 2^63."""
    return error(b"ERR invalid expire time in '%b' command" % command.encode())


def fail(reply: bytes) -> CommandError:
    """The exception that carries ``reply`` to the client: ``raise fail(SYNTAX)``."""
    return CommandError(reply)
