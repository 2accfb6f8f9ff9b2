"""All bounds that are not a directive, each with its unit."""

from __future__ import annotations

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

#: A key that is written, together with the name of a hash's field. Jobs and the manifest name each table's first and
#: last key, and no request with one of them is a fast SET (``resp/careful.LARGE_ARGUMENT_BYTES``).
KEY_BYTES_MAX: Final = MIB

#: What one command or transaction may write: it is one record of the log, whose length has four bytes.
RECORD_BYTES_MAX: Final = 2 * GIB

#: Requests of one connection that run before the others get their turn.
COMMANDS_PER_TURN: Final = 1024
#: A cycle stops executing after this long, microseconds; what is ready then is ready in the next one too.
CYCLE_US_MAX: Final = 20_000
#: Slices of a whole-keyspace walk in one turn.
WALK_STEPS_PER_TURN: Final = 8
#: Index entries that the expiry duty works off in one call.
EXPIRED_PER_CALL: Final = 200
#: How often the expiry duty runs, microseconds.
EXPIRY_INTERVAL_US: Final = 100_000
#: How far ahead of the wall clock the durable clock ceiling is kept, milliseconds.
CLOCK_AHEAD_MS: Final = 5_000
#: Memtable keys that are settled in one call, at most.
SETTLED_PER_CALL: Final = 500
#: Of them at once, before the clock is looked at.
SETTLED_AT_ONCE: Final = 20
#: Between two such calls of an idle node, microseconds.
SETTLE_INTERVAL_US: Final = 5_000
#: A brake that does not last for a time but until it is released; whoever is braked so looks every BRAKE_LOOK_US.
HOLD_US: Final = 1 << 40
BRAKE_LOOK_US: Final = 10_000
