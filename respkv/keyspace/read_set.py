"""Read sets: what a command has looked at, so that its coordinator can compare just that with other replicas.

A view with a ``ReadSet`` notes every record it looks up with the stamp found (absence too), every element looked up,
and every range of elements walked. The command runs as ever; what it saw is compared afterwards, and it runs again
when something newer was found elsewhere (optimistic reads in the manner of Kung and Robinson, TODS 1981).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from respkv.causality.record import BODY_AT
from respkv.keyspace import effects as fx
from respkv.keyspace import keys
from respkv.keyspace.conflicts import WRITES
from respkv.keyspace.keyspace import Keyspace
from respkv.keyspace.rows import FieldEntry, HashRow, Row
from respkv.keyspace.view import HashView


class ReadSet:
    """``keys``: internal key -> stamp held (ten bytes). ``ranges``: first internal key -> end of the range."""

    __slots__ = ("_keyspace", "keys", "ranges")

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self.keys: dict[bytes, bytes] = {}
        self.ranges: dict[bytes, bytes] = {}

    def note(self, db: int, key: bytes, row: Row | None) -> None:
        """A key was looked up. May raise ReadMiss."""
        internal = self._keyspace.internal(db, key)
        if internal not in self.keys:
            if row.__class__ is bytes:
                self.keys[internal] = row[1:BODY_AT]
            else:
                keyspace = self._keyspace
                self.keys[internal] = keyspace.held_stamp(internal)
                if row is None and keyspace.husks:
                    self._note_husk(internal)

    def _note_husk(self, internal: bytes) -> None:
        """A husk is absent as long as nobody has an element of it."""
        if self._keyspace.empty_collection(internal, self._keyspace.engine.get(internal)):
            self._note_all(keys.element_prefix(internal))

    def note_superseded(self, effects: fx.Effects) -> None:
        """Writes of keys whose siblings are kept put themselves in the place of what is here, so that must be all that
        was acknowledged: they count as reads. May raise ReadMiss."""
        conflicts = self._keyspace.conflicts
        for effect in effects:
            if effect[0] in WRITES and conflicts.keeps(effect[2]):
                self.note(effect[1], effect[2], None)

    def note_emptied(self, effects: fx.Effects) -> None:
        """Who removes all elements of a collection that are known here deletes it (``Applier.compared``): they must be
        all that was acknowledged, so the whole collection counts as read. May raise ReadMiss."""
        removed = Counter(effect[1:3] for effect in effects if effect[0] == fx.REMOVE_ELEMENT)
        for (db, key), count in removed.items():
            row = self._keyspace.row(db, key)
            if isinstance(row, HashRow) and count >= row.count:
                self.note_range(row)

    def note_range(self, row: HashRow) -> None:
        """All elements of a collection were looked at."""
        self._note_all(row.prefix)

    def _note_all(self, prefix: bytes) -> None:
        end = keys.prefix_end(prefix)
        assert end is not None, "a prefix of an element begins with its space"
        self.ranges[prefix] = end

    def note_element(self, internal: bytes) -> None:
        """An element, or a count of elements, was looked up. May raise ReadMiss."""
        if internal not in self.keys:
            self.keys[internal] = self._keyspace.held_stamp(internal)

    def hash_view(
        self, db: int, key: bytes, row: HashRow | None, changes: dict[bytes, FieldEntry | None] | None = None
    ) -> HashView:
        """A view of a hash that notes what is read of it."""
        return NotingHashView(self, self._keyspace, db, key, row, changes)

    def __repr__(self) -> str:
        return f"<ReadSet {len(self.keys)} keys, {len(self.ranges)} ranges>"


class NotingHashView(HashView):
    """A hash view that notes elements and ranges."""

    __slots__ = ("_noted",)

    def __init__(
        self,
        noted: ReadSet,
        keyspace: Keyspace,
        db: int,
        key: bytes,
        row: HashRow | None,
        changes: dict[bytes, FieldEntry | None] | None,
    ) -> None:
        super().__init__(keyspace, db, key, row, changes)
        self._noted = noted

    def _entry(self, field: bytes) -> FieldEntry | None:
        if self._row is not None:
            self._noted.note_element(self._row.prefix + field)
        return super()._entry(field)

    def count(self) -> int:
        """The number of fields."""
        if self._row is not None:
            self._noted.note_element(keys.count_key(self._row.internal))
        return super().count()

    def _ordered(self, after: bytes | None) -> Iterator[tuple[bytes, FieldEntry]]:
        self._note_all()
        return super()._ordered(after)

    def _live(self) -> list[tuple[bytes, FieldEntry]]:
        self._note_all()
        return super()._live()

    def _note_all(self) -> None:
        if self._row is not None:
            self._noted.note_range(self._row)
