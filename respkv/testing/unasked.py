"""Checker of graves that no client has asked for.

A node may delete a collection because its last element has gone. It must then know of all elements that were
acknowledged: a tombstone hides what it has not heard of as well. To the other checkers such a grave looks like any
deletion; here those that no DEL explains are held against what was acknowledged before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from respkv.causality.record import BODY_AT, HAS_EXPIRY, TYPE_MASK
from respkv.keyspace import keys
from respkv.replication.levels import ALL, QUORUM
from respkv.testing.checkers import Evidence, taken_along, writes_of
from respkv.testing.clients import HASHES, OK, Operation
from respkv.testing.schedule import EPOCH_MS

#: How long a node may have known what it knows when it makes a grave by itself: a comparison.
KNOWN_FOR_US: Final = 1_500_000
#: How long what has been logged may be on its way to who makes the grave.
_UNDER_WAY_US: Final = 1_000_000


class _Grave(NamedTuple):
    """``us``: when it was logged. ``since_us``: when its maker may have begun to look at what it hides."""

    us: int
    since_us: int


def check_unasked(
    history: Sequence[Operation],
    evidence: Evidence,
    records: Mapping[bytes, Mapping[bytes, int]],
    *,
    skew_ms: int,
) -> list[str]:
    """No grave over a hash that nobody has asked for hides a field that was acknowledged at QUORUM or ALL before, and
    that had not been removed by then and had not expired by any clock."""
    problems: list[str] = []
    for key in HASHES:
        graves = _unasked(history, evidence, key, records.get(keys.record_key(0, key), {}))
        if not graves:
            continue
        for operation in history:
            if operation.name != "hset" or operation.argv[1] != key or operation.outcome != OK:
                continue
            if operation.level not in (QUORUM, ALL):
                continue
            for _, name, stamp in writes_of(operation, evidence):
                for made, grave in graves.items():
                    if not stamp or stamp > made or operation.end_us >= grave.since_us:
                        continue
                    if not _gone_anyway(evidence, key, name, stamp, graves, grave.us, skew_ms):
                        what = f"{stamp.hex()} is hidden by {made.hex()}, logged at {grave.us}"
                        problems.append(f"unasked: {what}: {operation!r}")
    return problems


def _unasked(
    history: Sequence[Operation], evidence: Evidence, key: bytes, seen: Mapping[bytes, int]
) -> dict[bytes, _Grave]:
    """The tombstones over a key that no operation explains, by stamp."""
    graves = {
        record[1:BODY_AT]: us for record, us in seen.items() if not record[0] & TYPE_MASK and not record[0] & HAS_EXPIRY
    }
    for floor in evidence.floors:
        graves.pop(floor.stamp, None)
    found: dict[bytes, _Grave] = {}
    of_key = [op for op in history if op.argv[1:2] == (key,)]
    for stamp, us in graves.items():
        under_way = [op for op in of_key if op.start_us <= us and (op.outcome != OK or us <= op.end_us)]
        if not any(op.name == "del" for op in under_way):
            began = [op.start_us for op in under_way if op.name == "hdel" and op.level in (QUORUM, ALL)]
            found[stamp] = _Grave(us, min([us - KNOWN_FOR_US, *began]))
    return found


def _gone_anyway(
    evidence: Evidence,
    key: bytes,
    name: bytes | None,
    stamp: bytes,
    graves: Mapping[bytes, _Grave],
    us: int,
    skew_ms: int,
) -> bool:
    shown_ms = EPOCH_MS + us // 1000 + skew_ms
    return any(
        hider.at_ms <= shown_ms
        and ((hider.stamp >= stamp and hider.stamp not in graves) or taken_along(evidence, key, name, stamp, hider))
        for hider in evidence.hiding(key, name)
        if hider.us <= us + _UNDER_WAY_US
    )
