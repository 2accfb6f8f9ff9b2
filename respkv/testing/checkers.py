"""Checkers of whole runs: pure functions from a history and evidence to lists of violations, in words.

A *version* is a record that some node has logged: a stamp, a value, and the true time at which it was first seen. What
an operation did is found among the versions: a write by its token, or by what was logged while it ran; a read by the
versions that have the value it returned. Where there are several, the one that accuses least is taken.

The order of writes is that of their stamps (last write wins): clocks are off, so it need not be that of time. What the
levels promise (DESIGN 4) is therefore checked as what quorums that intersect give: whoever reads after a write was
acknowledged, or after another has read, finds a stamp that is not below.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from respkv.base.ids import HASH
from respkv.base.slots import slot_of
from respkv.causality import siblings
from respkv.causality.hlc import ZERO_STAMP
from respkv.causality.record import BODY_AT, DVV, EXPIRING_BODY_AT, HAS_EXPIRY, TYPE_MASK
from respkv.keyspace import keys
from respkv.keyspace.floors import FlushFloors
from respkv.keyspace.leaf_rule import element_floor
from respkv.replication.levels import ALL, QUORUM
from respkv.testing.clients import APPENDED, COUNTERS, FAILED, FIELDS, OK, STRINGS, Operation
from respkv.testing.schedule import EPOCH_MS
from respkv.testing.witness import Floor, Logged, name_of

_STRONG_ENOUGH: Final = (QUORUM, ALL)
#: Commands whose writes are known by a token that nobody else writes.
_TOKENS: Final = ("set", "mset", "append", "hset")
#: Expiry: how much later than the clocks say a value may still be read, milliseconds (one cycle).
_EXPIRY_SLACK_MS: Final = 5
#: How far clocks may be off.
SKEW_MS: Final = 4_500
#: How long a flush may be under way.
FLUSH_US: Final = 1_000_000


class Version(NamedTuple):
    """``value`` is None for a deletion, and for the record of a collection. ``expire_at_ms`` 0: never."""

    stamp: bytes
    us: int
    value: bytes | None
    expire_at_ms: int = 0


class Hider(NamedTuple):
    """From time ``us`` on, whatever has a stamp up to ``stamp`` may be absent; ``at_ms``: once clocks show that.

    ``whole``: a collection, which takes along what was written to it before ``until_us``, whatever stamps say.
    """

    stamp: bytes
    us: int
    at_ms: int = 0
    whole: bool = False
    until_us: int = 0


@dataclass
class Evidence:
    """Versions and hiders by (key, field), field None for strings."""

    versions: dict[tuple[bytes, bytes | None], list[Version]] = field(default_factory=dict)
    hiders: dict[tuple[bytes, bytes | None], list[Hider]] = field(default_factory=dict)
    #: of a key whatever its type: deletions of the whole key
    deletions: dict[bytes, list[Hider]] = field(default_factory=dict)
    floors: list[Floor] = field(default_factory=list)

    def of(self, key: bytes, name: bytes | None = None) -> list[Version]:
        """All versions of a string, or of a field of a hash."""
        return self.versions.get((key, name), [])

    def hiding(self, key: bytes, name: bytes | None = None) -> list[Hider]:
        """All that can make a string or a field absent."""
        found = self.hiders.get((key, name), []) + self.deletions.get(key, [])
        # A flush that comes a moment before a field, by its stamp, may still take away the record that owns the field.
        whole = name is not None
        return found + [
            Hider(floor.stamp, floor.us, 0, whole, floor.us + FLUSH_US) for floor in self.floors if covers(floor, key)
        ]


def covers(floor: Floor, key: bytes) -> bool:
    """True when a flush floor is about a key of database 0."""
    return floor.db == 0 and floor.first <= slot_of(key) <= floor.last


def evidence_of(records: Mapping[bytes, Mapping[bytes, int]], floors: Sequence[Floor]) -> Evidence:
    """From all records logged, by internal key, with the times at which they were first seen."""
    evidence = Evidence(floors=list(floors))
    collections = {
        internal: None for internal, seen in records.items() if any(each[0] & TYPE_MASK >= HASH for each in seen)
    }
    for internal, seen in records.items():
        element = internal[0] == keys.SPACE_ELEMENT
        owner, name = keys.element_owner(internal) if element else (internal, None)
        place = (keys.user_key(owner), name)
        for record, us in seen.items():
            if record[0] & DVV:
                continue  # Siblings have a reference of their own.
            stamp, kind = record[1:BODY_AT], record[0] & TYPE_MASK
            expire_at_ms = int.from_bytes(record[BODY_AT:EXPIRING_BODY_AT], "big") if record[0] & HAS_EXPIRY else 0
            body = record[EXPIRING_BODY_AT if expire_at_ms else BODY_AT :]
            if not kind or expire_at_ms:
                until_us = (expire_at_ms - EPOCH_MS + SKEW_MS) * 1000
                hider = Hider(stamp, us, expire_at_ms, bool(expire_at_ms) and internal in collections, until_us)
                if element:
                    evidence.hiders.setdefault(place, []).append(hider)
                else:
                    evidence.deletions.setdefault(place[0], []).append(hider)
            if not kind:
                continue
            if kind >= HASH:
                evidence.deletions.setdefault(place[0], []).append(Hider(element_floor(record), us))
            else:
                value = body if element else body[body.index(b"\r\n") + 2 : -2]
                evidence.versions.setdefault(place, []).append(Version(stamp, us, value, expire_at_ms))
    return evidence


def taken_along(evidence: Evidence, key: bytes, name: bytes | None, stamp: bytes, hider: Hider) -> bool:
    """Whether what has this stamp was written so early that a collection's end takes it along."""
    if not hider.whole:
        return False
    written = [version.us for version in evidence.of(key, name) if version.stamp == stamp]
    return bool(written) and min(written) <= hider.until_us


# What operations did


def writes_of(operation: Operation, evidence: Evidence) -> list[tuple[bytes, bytes | None, bytes]]:
    """(key, field, least stamp) of everything an acknowledged operation wrote; key b"" for a flush. Nothing where
    it wrote nothing. A field of None of a hash's key stands for the whole hash."""
    name, argv, reply = operation.name, operation.argv, operation.reply
    if name == "flushall":
        return [(b"", None, _least(evidence.floors, lambda floor: _during(operation)(floor.us)))]
    if name in ("set", "mset"):
        pairs = list(zip(argv[1::2], argv[2::2])) if name == "mset" else [(argv[1], argv[2])]
        return [(key, None, _least(evidence.of(key), lambda v, t=token: v.value == t)) for key, token in pairs]  # type: ignore[misc]
    if name == "append":
        return [(argv[1], None, _least(evidence.of(argv[1]), lambda v: (v.value or b"").endswith(argv[2])))]
    if name == "hset":
        return [(argv[1], argv[2], _least(evidence.of(argv[1], argv[2]), lambda v: v.value == argv[3]))]
    during = _during(operation)
    if name == "incr":
        wanted = b"%d" % reply
        return [(argv[1], None, _least(evidence.of(argv[1]), lambda v: v.value == wanted and during(v.us)))]
    if name == "pexpire" and reply:
        if argv[1] in STRINGS:
            return [(argv[1], None, _least(evidence.of(argv[1]), lambda v: v.expire_at_ms > 0 and during(v.us)))]
        return []
    if name == "del" and reply:
        return [(argv[1], None, _least(evidence.deletions.get(argv[1], []), lambda v: during(v.us)))]
    if name == "hdel" and reply:
        graves = evidence.hiders.get((argv[1], argv[2]), []) + evidence.deletions.get(argv[1], [])
        return [(argv[1], argv[2], _least(graves, lambda v: during(v.us)))]
    return []


def _during(operation: Operation) -> Callable[[int], bool]:
    return lambda us: operation.start_us <= us <= operation.end_us


def _least(found: Iterable[Any], fits: Callable[[Any], bool]) -> bytes:
    """The least stamp of those that fit; b"" when none does."""
    return min((each.stamp for each in found if fits(each)), default=b"")


def reads_of(operation: Operation) -> list[tuple[bytes, bytes | None, bytes | None]]:
    """(key, field, value) of what an answered read has shown, None for absent."""
    name, argv, reply = operation.name, operation.argv, operation.reply
    if name == "get":
        return [(argv[1], None, reply)]
    if name == "mget":
        return [(key, None, value) for key, value in zip(argv[1:], reply)]
    if name == "hget":
        return [(argv[1], argv[2], reply)]
    if name == "hgetall":
        shown = dict(zip(reply[::2], reply[1::2]))
        names = list(dict.fromkeys([*FIELDS, *shown]))
        return [(argv[1], each, shown.get(each)) for each in names]
    return []


# What every read must have seen


class _Bounds:
    """By (key, field): the stamps that later operations must not fall below, by the times at which that began."""

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, bytes | None], list[tuple[int, bytes, int]]] = {}
        self._ready: dict[tuple[bytes, bytes | None], tuple[list[int], list[tuple[bytes, int]]]] = {}

    def add(self, key: bytes, name: bytes | None, us: int, stamp: bytes, number: int) -> None:
        """From ``us`` on nothing below ``stamp`` may be read; operation ``number`` says so."""
        self._found.setdefault((key, name), []).append((us, stamp, number))

    def note_read(self, key: bytes, name: bytes | None, operation: Operation, stamp: bytes) -> None:
        """``add`` after ``at``."""
        self.add(key, name, operation.end_us, stamp, operation.number)
        self._ready.pop((key, name), None)

    def at(self, key: bytes, name: bytes | None, us: int) -> tuple[bytes, int]:
        """The greatest stamp of what had ended before ``us``, and whose it is."""
        best = (ZERO_STAMP, -1)
        for place in ((key, name), (key, None), (b"", None)) if name is not None else ((key, None), (b"", None)):
            times, greatest = self._prefix(place)
            index = bisect_left(times, us)
            if index and greatest[index - 1] > best:
                best = greatest[index - 1]
        return best

    def _prefix(self, place: tuple[bytes, bytes | None]) -> tuple[list[int], list[tuple[bytes, int]]]:
        ready = self._ready.get(place)
        if ready is None:
            greatest: list[tuple[bytes, int]] = []
            found = sorted(self._found.get(place, []))
            for _, stamp, number in found:
                greatest.append(max(greatest[-1], (stamp, number)) if greatest else (stamp, number))
            ready = self._ready[place] = [us for us, _, _ in found], greatest
        return ready


def check_history(history: Sequence[Operation], evidence: Evidence, *, quorums: bool = True) -> list[str]:
    """Every value read was written; nothing refused was written; no expired value is read; with ``quorums``, whoever
    reads at QUORUM or ALL sees what was acknowledged, or read, at QUORUM or ALL before it began, and whoever reads at
    ALL what was acknowledged at any level."""
    problems: list[str] = []
    bounds = {level: _Bounds() for level in _STRONG_ENOUGH}
    for operation in history:
        if operation.outcome == OK:
            for key, name, stamp in writes_of(operation, evidence):
                if not stamp:
                    problems.append(f"acked: nothing of it is in any log: {operation!r}")
                else:
                    bounds[ALL].add(key, name, operation.end_us, stamp, operation.number)
                    if operation.level in _STRONG_ENOUGH:
                        bounds[QUORUM].add(key, name, operation.end_us, stamp, operation.number)
        elif operation.outcome == FAILED:
            problems += _applied_though_failed(operation, evidence)
    reads = sorted((op for op in history if op.outcome == OK), key=lambda op: (op.end_us, op.number))
    for operation in reads:
        for key, name, value in reads_of(operation):
            problems += _check_read(operation, key, name, value, evidence, bounds if quorums else {})
    return problems


def _check_read(
    operation: Operation,
    key: bytes,
    name: bytes | None,
    value: bytes | None,
    evidence: Evidence,
    bounds: Mapping[int, _Bounds],
) -> list[str]:
    what = f"{key.decode('latin-1')}{'.' + name.decode('latin-1') if name is not None else ''}"
    known = bounds.get(operation.level)
    bound, number = known.at(key, name, operation.start_us) if known is not None else (ZERO_STAMP, -1)
    if value is None:
        if bound == ZERO_STAMP:
            return []
        for hider in evidence.hiding(key, name):
            if hider.us > operation.end_us or hider.at_ms > operation.high_ms:
                continue
            if hider.stamp >= bound or taken_along(evidence, key, name, bound, hider):
                return []
        return [f"quorum read: {what} is absent, though #{number} at {bound.hex()} came before: {operation!r}"]
    seen = [v for v in evidence.of(key, name) if v.value == value and v.us <= operation.end_us]
    if not seen:
        return [f"read: {what} shows what nobody has logged: {operation!r}"]
    alive = [v for v in seen if not v.expire_at_ms or v.expire_at_ms + _EXPIRY_SLACK_MS > operation.low_ms]
    if not alive:
        return [f"expiry: {what} is shown after its time, {seen[-1].expire_at_ms}: {operation!r}"]
    fresh = [v.stamp for v in alive if v.stamp >= bound]
    if not fresh:
        newest = max(v.stamp for v in alive)
        return [f"quorum read: {what} shows {newest.hex()}, older than #{number} at {bound.hex()}: {operation!r}"]
    for each in bounds.values() if known is not None else ():
        each.note_read(key, name, operation, min(fresh))
    return []


def _applied_though_failed(operation: Operation, evidence: Evidence) -> list[str]:
    """An answer that says that nothing was applied must be true."""
    name, argv = operation.name, operation.argv
    tokens: list[tuple[bytes, bytes | None, bytes]] = []
    if name == "set":
        tokens = [(argv[1], None, argv[2])]
    elif name == "mset":
        tokens = [(key, None, token) for key, token in zip(argv[1::2], argv[2::2])]
    elif name == "append":
        tokens = [(argv[1], None, argv[2])]
    elif name == "hset":
        tokens = [(argv[1], argv[2], argv[3])]
    return [
        f"failed: it was applied all the same: {operation!r}"
        for key, field_name, token in tokens
        if any(token in (version.value or b"") for version in evidence.of(key, field_name))
    ]


def check_order(history: Sequence[Operation], evidence: Evidence, *, quorums: bool = True) -> list[str]:
    """Of requests sent together those on one key take effect in their order: later writes have later stamps, no read
    shows a later write, and with ``quorums`` a read at QUORUM or ALL shows nothing older than an earlier write."""
    problems: list[str] = []
    bursts: dict[int, list[Operation]] = {}
    for operation in history:
        if operation.outcome == OK and operation.burst >= 0:
            bursts.setdefault(operation.burst, []).append(operation)
    for burst in bursts.values():
        written: dict[tuple[bytes, bytes | None], bytes] = {}
        shown: dict[tuple[bytes, bytes | None], tuple[bytes, Operation]] = {}
        for operation in burst if len(burst) > 1 else ():
            for key, name, value in reads_of(operation) if operation.name in ("get", "hget") else ():
                stamps = [v.stamp for v in evidence.of(key, name) if v.value == value]
                before = written.get((key, name), ZERO_STAMP)
                if stamps and quorums and operation.level in _STRONG_ENOUGH and max(stamps) < before:
                    problems.append(f"order: shows less than was written right before it: {operation!r}")
                if stamps:
                    shown[key, name] = min(stamps), operation
            for key, name, stamp in writes_of(operation, evidence) if operation.name in _TOKENS else ():
                if not stamp:
                    continue  # check_history tells.
                if stamp <= written.get((key, name), ZERO_STAMP):
                    problems.append(f"order: is older than what was written right before it: {operation!r}")
                seen, reader = shown.get((key, name), (ZERO_STAMP, operation))
                if seen == stamp:
                    problems.append(f"order: shows what was written after it, by #{operation.number}: {reader!r}")
                written[key, name] = stamp
    return problems


def check_once(history: Sequence[Operation], evidence: Evidence) -> list[str]:
    """No operation was executed twice: a token appended stands once, and a counter has no more versions than
    increments were asked for."""
    problems = []
    for key in APPENDED:
        for version in evidence.of(key):
            tokens = (version.value or b"").replace(b".", b"").split(b">")
            doubles = {token: None for token in tokens if token and tokens.count(token) > 1}
            problems += [f"once: {token.decode()} was appended twice to {key.decode()}" for token in doubles]
    for key in COUNTERS:
        asked = sum(op.name == "incr" and op.argv[1] == key and op.outcome != FAILED for op in history)
        made = len({version.stamp: None for version in evidence.of(key)})
        if made > asked:
            problems.append(f"once: {key.decode()} was incremented {made} times, of {asked} asked for")
    return list(dict.fromkeys(problems))


def check_whole(history: Sequence[Operation], evidence: Evidence) -> list[str]:
    """Of a transaction all fields were set, or none: by the tokens in any log."""
    problems, groups = [], dict[int, list[Operation]]()
    for operation in history:
        if operation.transaction >= 0 and operation.name == "hset":
            groups.setdefault(operation.transaction, []).append(operation)
    for parts in groups.values():
        found = [bool(stamp) for part in parts for _, _, stamp in writes_of(part, evidence)]
        if any(found) and not all(found):
            problems.append(f"whole: {sum(found)} of {len(found)} fields were set by the transaction of {parts[0]!r}")
    return problems


def check_survival(
    history: Sequence[Operation],
    evidence: Evidence,
    surviving: Mapping[bytes, bytes],
    floors: FlushFloors,
    *,
    levels: Sequence[int],
) -> list[str]:
    """What was acknowledged at one of ``levels`` is there at the end, or something newer is."""
    problems = []
    for operation in history:
        if operation.outcome != OK or operation.level not in levels:
            continue
        for key, name, stamp in writes_of(operation, evidence):
            if not stamp:
                continue  # check_history tells.
            if not key:
                if floors.get(0, 0) < stamp:
                    problems.append(f"survival: the flush at {stamp.hex()} is lost: {operation!r}")
                continue
            owner = keys.record_key(0, key)
            newest = floors.get(slot_of(key), 0)
            for internal in (owner, keys.element_prefix(owner) + name) if name is not None else (owner,):
                record = surviving.get(internal)
                if record is None:
                    continue
                if internal == owner and name is not None and record[0] & TYPE_MASK >= HASH:
                    newest = max(newest, element_floor(record))
                else:
                    newest = max(newest, record[1:BODY_AT])
            if newest >= stamp:
                continue
            gone = any(
                taken_along(evidence, key, name, stamp, hider)
                and (hider.at_ms or hider.stamp <= floors.get(slot_of(key), 0))
                for hider in evidence.hiding(key, name)
            )
            if not gone:
                problems.append(f"survival: {stamp.hex()} is lost, {newest.hex()} is left: {operation!r}")
    return problems


# Convergence


@dataclass
class Contents:
    """What a node holds at the end: records by internal key, and the roots of its leaf sums by slot."""

    node: str
    records: dict[bytes, bytes]
    roots: dict[int, int]


def check_convergence(nodes: Sequence[Contents], owners: Callable[[int], Sequence[str]]) -> list[str]:
    """The replicas of each slot hold the same, and their roots are equal: both, or neither."""
    by_name = {contents.node: contents for contents in nodes}
    slots = dict.fromkeys(keys.key_slot(key) for contents in nodes for key in contents.records)
    slots.update(dict.fromkeys(slot for contents in nodes for slot in contents.roots))
    parts: dict[str, dict[int, dict[bytes, bytes]]] = {}
    for contents in nodes:
        part = parts[contents.node] = {}
        for key, record in contents.records.items():
            part.setdefault(keys.key_slot(key), {})[key] = record
    problems = []
    for slot in sorted(slots):
        first, *others = (by_name[name] for name in owners(slot))
        mine = parts[first.node].get(slot, {})
        for other in others:
            theirs = parts[other.node].get(slot, {})
            equal, roots = mine == theirs, first.roots.get(slot, 0) == other.roots.get(slot, 0)
            if not equal:
                key = next(key for key in sorted({**mine, **theirs}) if mine.get(key) != theirs.get(key))
                problems.append(
                    f"convergence: {first.node} and {other.node} differ at {name_of(key)} (slot {slot}): "
                    f"{_short(mine.get(key))} and {_short(theirs.get(key))}, roots {'equal' if roots else 'differ'}"
                )
            elif mine and not first.roots.get(slot, 0):
                problems.append(f"convergence: {first.node} holds records in slot {slot}, its root knows of none")
            elif not roots:
                both = f"{first.node} and {other.node}"
                problems.append(f"convergence: {both} hold the same in slot {slot}, roots differ")
    return problems


def check_last_write(
    nodes: Sequence[Contents],
    owners: Callable[[int], Sequence[str]],
    surviving: Mapping[bytes, bytes],
    floors: FlushFloors,
    now_ms: int,
) -> list[str]:
    """What replicas show of each key is the newest of all that any log still holds, and nothing else.

    ``now_ms``: what expires until then counts as gone, there as well as here.
    """
    problems = []
    for contents in nodes:
        mine = [internal for internal in surviving if contents.node in owners(keys.key_slot(internal))]
        for internal in sorted(dict.fromkeys([*mine, *contents.records])):
            record, held = surviving.get(internal), contents.records.get(internal)
            if record is None:
                problems.append(f"last write: {contents.node} holds {_short(held)}, of no log, at {name_of(internal)}")
                continue
            if floors.hides(keys.key_slot(internal), keys.key_db(internal), record[1:BODY_AT]):
                if held is not None:
                    problems.append(f"last write: {contents.node} shows {name_of(internal)}, which was flushed")
                continue
            if record[0] & DVV:
                # Of what the logs hold of a key, some may be flushed and some not.
                record = siblings.without_flushed(record, floors.get(keys.key_slot(internal), keys.key_db(internal)))
            live = is_live(record, now_ms)
            if live and internal[0] == keys.SPACE_ELEMENT:
                owner = surviving.get(keys.element_owner(internal)[0])
                live = owner is not None and is_live(owner, now_ms) and record[1:BODY_AT] > element_floor(owner)
                live = live and not floors.hides(keys.key_slot(internal), 0, owner[1:BODY_AT] if owner else ZERO_STAMP)
            if held is None and live:
                problems.append(f"last write: {contents.node} has not {_short(record)} at {name_of(internal)}")
            elif held is not None and held[1:BODY_AT] != record[1:BODY_AT] and (live or held[0] & TYPE_MASK):
                problems.append(
                    f"last write: {contents.node} holds {_short(held)}, not {_short(record)}, at {name_of(internal)}"
                )
    return problems


def is_live(record: bytes, now_ms: int) -> bool:
    """Neither a grave nor past its time."""
    if not record[0] & TYPE_MASK:
        return False
    return not record[0] & HAS_EXPIRY or int.from_bytes(record[BODY_AT:EXPIRING_BODY_AT], "big") > now_ms


def _short(record: bytes | None) -> str:
    if record is None:
        return "nothing"
    kind = "a grave" if not record[0] & TYPE_MASK else f"type {record[0] & TYPE_MASK}"
    return f"{kind} at {record[1:BODY_AT].hex()}"


# What all replicas have, nobody un-sees


def check_settled(
    history: Sequence[Operation],
    evidence: Evidence,
    logs: Mapping[str, Sequence[Logged]],
    owners: Callable[[int], Sequence[str]],
) -> list[str]:
    """Once every replica of a key has logged a stamp or a newer one, no read of any level shows an older one: nothing
    that was deleted everywhere comes back. For runs in which no log has lost anything."""
    bounds = _Bounds()
    held: dict[bytes, dict[str, bytes]] = {}
    settled: dict[bytes, bytes] = {}
    events = sorted((us, name, key, record) for name, log in logs.items() for _, us, key, record in log)
    for us, name, key, record in events:
        if key[0] not in (keys.SPACE_RECORD, keys.SPACE_ELEMENT):
            continue
        # The record of a collection hides what its floor does, whatever its own stamp is.
        collection = key[0] == keys.SPACE_RECORD and record[0] & TYPE_MASK >= HASH
        stamp = element_floor(record) if collection else record[1:BODY_AT]
        by_node = held.setdefault(key, {})
        by_node[name] = max(by_node.get(name, ZERO_STAMP), stamp)
        least = min(by_node.get(owner, ZERO_STAMP) for owner in owners(keys.key_slot(key)))
        if least > settled.get(key, ZERO_STAMP):
            settled[key] = least
            internal, field_name = keys.element_owner(key) if key[0] == keys.SPACE_ELEMENT else (key, None)
            bounds.add(keys.user_key(internal), field_name, us, least, -1)
    problems = []
    for operation in history:
        if operation.outcome != OK:
            continue
        for key, name_of_field, value in reads_of(operation):
            if value is None:
                continue
            bound, _ = bounds.at(key, name_of_field, operation.start_us)
            stamps = [v.stamp for v in evidence.of(key, name_of_field) if v.value == value and v.us <= operation.end_us]
            if stamps and max(stamps) < bound:
                problems.append(f"settled: all replicas had {bound.hex()}, {max(stamps).hex()} is shown: {operation!r}")
    return problems


def check_answers(history: Sequence[Operation], *, healed_us: int, bound_us: int) -> list[str]:
    """Every operation that began after ``healed_us`` was answered, within a bound."""
    problems = []
    for operation in history:
        if operation.start_us < healed_us:
            continue
        if operation.end_us < 0:
            problems.append(f"answers: none: {operation!r}")
        elif operation.end_us - operation.start_us > bound_us:
            problems.append(f"answers: {operation.end_us - operation.start_us} us late: {operation!r}")
    return problems
