"""Walks over what is stored, by the rule of leaf sums: the worker's job over all runs, and the listing of a leaf.

The job gives what the ``count`` job gives (live keys by slot and database) and, when its spec has ``leaves``, the sums
of all 16384 x 64 leaves: both need every record once. Elements lie in another space, in another order than their
owners, so the two spaces are read side by side, slot by slot, and only one slot's collections are remembered.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import chain, groupby
from typing import Any, Final

from respkv.base.coding import pack_text
from respkv.causality.hlc import MAX_STAMP
from respkv.env.fs import FileSystem
from respkv.keyspace import keys
from respkv.keyspace.counts import DEAD, Sums, pack_sums, shift, state_of
from respkv.keyspace.floors import FlushFloors
from respkv.keyspace.leaf_rule import CELLS, LEAF_BITS, MASK, Form, LeafRule, digest_of, leaf_of, term_of
from respkv.keyspace.leaf_sums import GRAVE, pack_words, unpack_words
from respkv.storage.block_cache import BlockCache
from respkv.storage.merge import Chunk, merge_runs
from respkv.storage.sstable.format import TableMeta
from respkv.storage.sstable.reader import TableReader
from respkv.storage.version import table_path

_CACHE_BYTES: Final = 1 << 20

Pause = Callable[[int], None]
Pair = tuple[bytes, bytes]


class _Leaves:
    """Sums under construction."""

    __slots__ = ("cells", "forgotten", "graves", "held", "limit", "rule")

    def __init__(self, rule: LeafRule, graves_max: int) -> None:
        self.rule = rule
        self.limit = graves_max
        self.cells = array("Q", bytes(8 * CELLS))
        self.graves: dict[int, bytearray] = {}
        self.held = 0
        self.forgotten: dict[int, None] = {}

    def add(self, internal: bytes, form: Form) -> None:
        if form == 0:
            return
        leaf, slot = leaf_of(internal), keys.key_slot(internal)
        if isinstance(form, bytes):
            if self.rule.purgeable(internal, form):
                return
            term = term_of(internal, form)
            self._remember(slot, GRAVE.pack(int.from_bytes(form[1:9], "big"), leaf, term))
        else:
            term = form[0] if isinstance(form, tuple) else form
        cell = slot << LEAF_BITS | leaf
        self.cells[cell] = (self.cells[cell] + term) & MASK

    def _remember(self, slot: int, entry: bytes) -> None:
        if slot in self.forgotten:
            return
        if self.held >= self.limit:
            self.forgotten[slot] = None
            self.held -= len(self.graves.pop(slot, b"")) // GRAVE.size
            return
        self.graves.setdefault(slot, bytearray()).extend(entry)
        self.held += 1

    def plain(self) -> dict[str, Any]:
        return {
            "cells": pack_words(self.cells),
            "marks": pack_words(self.rule.marks),
            "graves": {str(slot): pack_text(entries) for slot, entries in self.graves.items()},
            "forgotten": list(self.forgotten),
        }


def sum_leaves(records: Iterable[Pair], elements: Iterable[Pair], leaves: _Leaves) -> Iterator[Pair]:
    """Add everything to ``leaves``; each record passes through. Both inputs ascend, each key once."""
    rule = leaves.rule
    by_slot = groupby(elements, key=lambda pair: keys.key_slot(pair[0]))
    following = next(by_slot, None)
    for slot, group in groupby(records, key=lambda pair: keys.key_slot(pair[0])):
        floors: dict[bytes, bytes] = {}
        for internal, record in group:
            form = rule.form(internal, record)
            if isinstance(form, tuple):
                floors[internal] = form[1]
            leaves.add(internal, form)
            yield internal, record
        while following is not None and following[0] <= slot:
            if following[0] == slot:
                owner_now, floor = b"", MAX_STAMP
                for internal, record in following[1]:
                    owner = keys.element_owner(internal)[0]
                    if owner != owner_now:
                        owner_now, floor = owner, floors.get(owner, MAX_STAMP)
                    leaves.add(internal, rule.form(internal, record, floor))
            following = next(by_slot, None)


def walk_job(fs: FileSystem, spec: dict[str, Any], pause: Pause) -> dict[str, Any]:
    """``spec``: dir, runs (newest first, table metas as plain data), floors, and ``leaves`` (marks, graves_max) or not.

    Result: ``live``, as the count job's, and ``leaves`` if asked for. About 1.2 us a key for counts alone, 3.2 us
    with leaves. CorruptionError, OSError.
    """
    floors = FlushFloors.from_plain(spec["floors"])
    sums: Sums = {}
    cache = BlockCache(_CACHE_BYTES)
    wanted = spec.get("leaves")
    with ExitStack() as stack:
        runs: list[list[TableReader]] = []
        for run in spec["runs"]:
            metas = [TableMeta.from_json(meta) for meta in run]
            readers = [TableReader(fs, table_path(spec["dir"], meta.file_id), meta, cache) for meta in metas]
            for reader in readers:
                stack.enter_context(closing(reader))
            runs.append(readers)
        records = _merged(runs, keys.SPACE_RECORD, pause)
        result: dict[str, Any] = {}
        if wanted is not None:
            leaves = _Leaves(LeafRule(floors, unpack_words(wanted["marks"])), wanted["graves_max"])
            records = sum_leaves(records, _merged(runs, keys.SPACE_ELEMENT, pause), leaves)
        for internal, record in records:
            shift(sums, internal, DEAD, state_of(floors, internal, record))
        if wanted is not None:
            result["leaves"] = leaves.plain()
        result["live"] = pack_sums(sums)
    return result


def _merged(runs: list[list[TableReader]], space: int, pause: Pause) -> Iterator[Pair]:
    sources = [_chunks(readers, space, pause) for readers in runs]
    return chain.from_iterable(zip(internals, records, strict=True) for internals, records in merge_runs(sources))


def _chunks(readers: list[TableReader], space: int, pause: Pause) -> Iterator[Chunk]:
    start, end = bytes((space,)), bytes((space + 1,))
    for chunk in chain.from_iterable(reader.scan_chunks(start, end, wait=True) for reader in readers):
        pause(sum(map(len, chunk[0])) + sum(map(len, chunk[1])))
        yield chunk


Scan = Callable[[bytes, bytes | None], Iterator[Pair]]
Get = Callable[[bytes], bytes | None]
#: ``Listing.left_out`` when nothing was: above every HLC value.
NOTHING_LEFT_OUT: Final = 1 << 64


class Listing:
    """A piece of one slot's listing: (internal key, digest) in key order, and where the next piece begins.

    ``position`` is the key after which to go on, None at the slot's end. ``visited`` counts what was read.
    ``left_out`` is the least HLC value of what counts in the sums, may differ between replicas and is not listed.
    """

    __slots__ = ("entries", "left_out", "position", "visited")

    def __init__(self, entries: list[Pair], position: bytes | None, visited: int, left_out: int) -> None:
        self.entries = entries
        self.position = position
        self.visited = visited
        self.left_out = left_out


def list_slot(
    scan: Scan, get: Get, rule: LeafRule, slot: int, *, after: bytes, leaf: int | None, limit: int, expired_by_ms: int
) -> Listing:
    """List up to ``limit`` stored keys of a slot behind ``after`` (b"" = from the start), of one leaf or of all.

    What the rule leaves out is not listed. Nor are what purging will take once its expired form is put (stamp below
    the watermark, expiry at or before ``expired_by_ms``) and the elements of an owner that expires by then: another
    replica's clock may already have come to that. Of what lies below the watermark every replica has the same; such
    elements above it are in nobody's listing, and ``left_out`` says so. May raise ReadMiss. O(limit).
    """
    entries: list[Pair] = []
    left_out = NOTHING_LEFT_OUT
    visited = 0
    owner_now, floor, passing = b"", b"", False
    place = slot.to_bytes(2, "big")
    for space in (keys.SPACE_RECORD, keys.SPACE_ELEMENT):
        prefix = bytes((space,)) + place
        if after >= bytes((space + 1,)):
            continue
        for internal, record in scan(max(prefix, keys.after(after)), keys.prefix_end(prefix)):
            if visited == limit:
                return Listing(entries, after, visited, left_out)
            if space == keys.SPACE_ELEMENT:
                owner = keys.element_owner(internal)[0]
                if owner != owner_now:
                    found = get(owner)
                    owner_now, floor = owner, rule.owner_floor(owner, found)
                    passing = found is not None and _expires_by(found, expired_by_ms)
            visited += 1
            after = internal
            if leaf is not None and leaf_of(internal) != leaf:
                continue
            form = rule.form(internal, record, floor)
            hlc = int.from_bytes(record[1:9], "big")
            gone = isinstance(form, bytes) or passing or _expires_by(record, expired_by_ms)
            if form == 0 or (gone and hlc < rule.marks[slot]):
                continue
            if passing:
                left_out = min(left_out, hlc)
            else:
                entries.append((internal, digest_of(record)))
    return Listing(entries, None, visited, left_out)


def _expires_by(record: bytes, time_ms: int) -> bool:
    return bool(record[0] & 0x10) and int.from_bytes(record[11:19], "big") <= time_ms
