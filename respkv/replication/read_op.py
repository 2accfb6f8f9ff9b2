"""The read side of a coordinator: do other replicas hold something newer, or older, than what was just read here?

A read at level R has looked at the local copy; its (key, stamp) pairs go to R - 1 other replicas, all pairs of a cycle
for one peer in one message, and the peer answers with what differs. Newer records are merged here and the reply is made
anew; where the peer is behind it gets our record, and acks it, *before* the reply leaves: what makes QUORUM reads
monotonic (blocking read repair, Cassandra's "monotonic quorum reads"). A peer that is slow is joined by another one
after ``HEDGE_US`` (Dean and Barroso, The Tail at Scale, CACM 2013); damage or recovery at a peer is a failure of that
peer, never an absence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from respkv.base.errors import CorruptionError, ProtocolError, ReadMiss
from respkv.base.ids import STRING
from respkv.causality import siblings
from respkv.causality.hlc import ZERO_STAMP
from respkv.causality.record import BODY_AT, DVV, EXPIRING_BODY_AT, HAS_EXPIRY, TYPE_MASK, newer
from respkv.keyspace import keys
from respkv.replication.levels import QUORUM
from respkv.replication.payload import entries_of, is_record
from respkv.replication.read_batch import HEDGE_US, READ_TIMEOUT_US, Batch
from respkv.replication.replica import RangePage, Replica, range_digest
from respkv.replication.rounds import Collector, Reader, Round
from respkv.replication.write_op import WriteSide
from respkv.resp import errors
from respkv.resp.reply import NULL, bulk, encode
from respkv.storage.write_batch import encode_entry, iterate_payload
from respkv.wire.messages import ABSENT, EQUAL, OK, REPAIR, RangeRead, RangeResult, ReadResult, Reads

#: Entries in one page of a range that is compared.
RANGE_ENTRIES: Final = 4096


class _Range:
    """A range that is compared page by page with one peer; ``asked``: all that are or were asked about it for the same
    reader, one set for all of them, so that none takes the place of another. ``last`` and ``more``: of the page that
    the peer was asked about, as in ``RangePage``; what is held here may have become another one until it answers."""

    __slots__ = ("asked", "deadline_us", "end", "last", "more", "peer", "reader", "start")

    def __init__(
        self, reader: Reader, peer: int, start: bytes, end: bytes, deadline_us: int, asked: set[int], page: RangePage
    ) -> None:
        self.reader = reader
        self.peer = peer
        self.start = start
        self.end = end
        self.deadline_us = deadline_us
        self.asked = asked
        self.last = page.last
        self.more = page.more


class ReadSide:
    """Reads of one coordinator."""

    __slots__ = (
        "_batches", "_late", "_live", "_others", "_ranges", "_replica", "_replicas", "_send", "_settle", "_writes",
        "asked", "differing", "failed", "failed_by", "hedged", "next_seq", "now_us", "repaired_here", "repaired_there",
    )  # fmt: skip

    def __init__(
        self,
        replica: Replica,
        writes: WriteSide,
        *,
        send: Callable[[int, Any], bool],
        live: Callable[[int], bool],
        others: Callable[[int], Sequence[int]],
        replicas: Callable[[int], Sequence[int]],
        settle: Callable[[Round], None],
        next_seq: Callable[[], int],
    ) -> None:
        """``others(slot)``: the other live replicas of a slot, the best one first; ``replicas(slot)``: all of them."""
        self._replica = replica
        self._writes = writes
        self._send = send
        self._live = live
        self._others = others
        self._replicas = replicas
        self._settle = settle
        self.next_seq = next_seq
        self._batches: dict[int, Batch] = {}
        self._ranges: dict[int, _Range] = {}
        self._late: dict[int, None] = {}
        self.now_us = 0
        self.asked = self.differing = self.failed = self.hedged = 0
        self.repaired_here = self.repaired_there = 0
        #: ``failed`` by level
        self.failed_by = [0, 0, 0, 0]

    # -- asking ------------------------------------------------------------------------------------

    def ask(self, collector: Collector, round_: Round | None, now_us: int) -> None:
        """Send what was collected for a peer. ``round_`` waits for it where fast GETs are among the places."""
        internals, stamps, places, shared = collector.take()
        self.now_us = now_us
        fast = round_ is not None and any(place.__class__ is tuple for place in places)
        clock = self._replica.last_stamp()
        batch = Batch(internals, stamps, places, shared, round_ if fast else None, now_us, clock)
        if fast and round_ is not None:
            round_.undecided += 1
        self.asked += len(internals)
        if self._ask(batch, collector.peer):
            batch.first = next(iter(batch.seqs))
        else:
            self._ask_another(batch)

    def _ask(self, batch: Batch, peer: int) -> bool:
        batch.asks(peer)
        seq = self.next_seq()
        if not self._live(peer) or not self._send(peer, Reads(seq, batch.keys, batch.stamps)):
            return False
        batch.seqs[seq] = peer
        self._batches[seq] = batch
        return True

    def _ask_another(self, batch: Batch) -> bool:
        """Ask a replica of all the keys that was not asked yet. With nobody left to answer, the batch has failed."""
        open_ = batch.open()
        slots = list(dict.fromkeys(keys.key_slot(batch.keys[index]) for index in open_))
        taken = batch.taken(open_)
        able = [peer for peer in self._others(slots[0]) if peer not in taken]
        for peer in able:
            if all(peer in self._others(slot) for slot in slots[1:]) and self._ask(batch, peer):
                self.hedged += 1
                return True
        if not batch.seqs:
            self._fail(batch, range(len(batch.keys)))
            self._done(batch)
        return False

    def ask_range(
        self, reader: Reader, peer: int, start: bytes, end: bytes, now_us: int, asked: set[int],
        page: RangePage | None = None,
    ) -> None:  # fmt: skip
        """Compare a range with ``peer``. May raise ReadMiss, then nothing was asked; counts into ``reader.waiting``.

        ``page``: what is held here of its first page, when that is known.
        """
        if page is None:
            page = self._replica.range_page(start, end, RANGE_ENTRIES)
        asked.add(peer)
        seq = self.next_seq()
        message = RangeRead(seq, start, end, b"", RANGE_ENTRIES, range_digest(page.payload))
        reader.waiting += 1
        if not self._live(peer) or not self._send(peer, message):
            reader.waiting -= 1
            self.give_up(reader)
            return
        self._ranges[seq] = _Range(reader, peer, start, end, now_us + READ_TIMEOUT_US, asked, page)

    # -- answers -----------------------------------------------------------------------------------

    def on_result(self, peer: int, message: ReadResult, now_us: int) -> None:
        """An answer to ``Reads``. May raise ReadMiss, or ProtocolError for nonsense, then nothing has changed."""
        batch = self._batches.get(message.seq)
        if batch is None:
            return
        self.now_us = now_us
        for index, status, record in message.differing:
            if not 0 <= index < len(batch.keys):
                raise ProtocolError("an answer about keys that were not asked for")
            if status == OK and not is_record(record):
                raise ProtocolError("an answer with a record that is none")
        if message.status != OK:
            self._peer_failed(batch, message.seq)
            return
        if message.differing:
            self._compare(peer, batch, message)
        else:
            self._forget(batch, peer)
            self._done(batch)

    def _compare(self, peer: int, batch: Batch, message: ReadResult) -> None:
        """Take over what is newer there, give what is newer here."""
        replica = self._replica
        renewed: list[tuple[int, bytes]] = []
        older: dict[int, bytes] = {}
        bad: list[int] = []
        payload: list[bytes] = []
        for index, status, record in message.differing:
            internal = batch.keys[index]
            if batch.places[index] is None:
                continue
            if status == OK:
                mine = replica.held(internal)
                if mine is None or _beats(record, mine):
                    renewed.append((index, record))
                    payload.append(encode_entry(internal, record))
                    if mine is None or not _beats(mine, record):
                        continue  # The peer has all there is to know, siblings and floors of collections included.
                elif siblings.token(mine) != batch.stamps[index]:
                    # What was read is old by now: somebody else has brought this record, or a newer one, meanwhile.
                    renewed.append((index, record))
                    if siblings.token(mine) == siblings.token(record):
                        continue
                older[index] = encode_entry(internal, mine) if mine is not None else b""
            elif status == ABSENT:
                mine = replica.held(internal)
                if mine is not None:
                    older[index] = encode_entry(internal, mine)
            else:
                bad.append(index)
        if payload:
            replica.apply(REPAIR, b"".join(payload), peer)
        self.differing += len(message.differing)
        self.repaired_here += len(payload)
        late = message.seq != batch.first
        if bad and len(batch.seqs) > 1:
            self._leave_rest(batch, bad, message.seq)
            bad = []
        else:
            self._forget(batch, peer)
        for index, record in renewed:
            self._renew(batch, index, record, late=late)
        if older and peer not in self._replicas(keys.key_slot(batch.keys[next(iter(older))])):
            older = {}  # It stands in for a replica: its own store is none of this key.
        entries = [entry for entry in older.values() if entry]
        if entries:
            # Where a grave meets a collection the peer may know of newer elements, and answer it by reviving that.
            revived = [
                index
                for index, status, record in message.differing
                if status == OK and index in older and _may_revive(batch.keys[index], older[index], record)
            ]
            self._push(peer, batch, older, entries, revived)
        if bad:
            self._ask_rest(batch, bad)
        self._done(batch)

    def _push(
        self, peer: int, batch: Batch, older: dict[int, bytes], entries: list[bytes], again: list[int]
    ) -> None:
        """The peer is behind: it gets our records, and who reads them waits for its ack. Then it is asked ``again``."""
        self.repaired_there += len(entries)
        readers = list({id(place): place for place in self._readers(batch, older)}.values())
        fast = [index for index in older if batch.places[index].__class__ is tuple]
        round_ = batch.round
        if fast and round_ is not None:
            round_.undecided += 1
        for reader in readers:
            reader.waiting += 1

        def done(acked: bool) -> None:
            if not acked:
                # Another replica may have what this one does not take.
                self._ask_rest(batch, list(older))
            elif again:
                self._ask_rest(batch, again, peer)
            if fast and round_ is not None:
                self._decided(round_)
            for reader in readers:
                reader.waiting -= 1
                if not reader.waiting:
                    reader.resume()

        self._writes.push(peer, b"".join(entries), done, self.now_us)

    def _readers(self, batch: Batch, indexes: Any) -> list[Reader]:
        places = (batch.places[index] for index in indexes)
        return [place for place in places if place is not None and place.__class__ is not tuple]

    def _renew(self, batch: Batch, index: int, record: bytes, *, late: bool) -> None:
        """What was read is old: an operation runs again; the reply of a fast GET is made of what the answer brought.

        Not of what is held by now: that may be a later write of the same connection. A peer that was asked ``late``, in
        place of another, may know of that, or of what others made of it, which hides what should have been read; one
        that had to fetch a block may know of the write itself. Then nothing can be said, if the connection has asked
        for more since: what this node wrote it would have read, had it been there.
        """
        place = batch.places[index]
        if place.__class__ is not tuple:
            place.changed = True
            return
        out, at, proto = place
        if record[0] & DVV:
            out[at] = self._reply(self._replica.held(batch.keys[index]), proto)
        elif record[1:BODY_AT] > batch.stamps[index]:
            stamp = record[1:BODY_AT]
            since = late and int.from_bytes(stamp[:8], "big") > batch.clock
            if len(out) > at + 1 and (since or self._replica.stamped_here(stamp)):
                self._fail(batch, (index,))
            else:
                out[at] = self._reply(record, proto)

    def _reply(self, record: bytes | None, proto: int) -> bytes:
        """What GET answers for a record."""
        if record is None or not record[0] & TYPE_MASK:
            return encode(NULL, proto)
        if record[0] & TYPE_MASK != STRING:
            return errors.WRONG_TYPE
        if record[0] & DVV:
            winner = siblings.decode(record).winner(self._replica.now_ms)
            return encode(NULL if winner is None else bulk(winner.value or b""), proto)
        if not record[0] & HAS_EXPIRY:
            return record[BODY_AT:]
        if int.from_bytes(record[BODY_AT:EXPIRING_BODY_AT], "big") <= self._replica.now_ms:
            return encode(NULL, proto)
        return record[EXPIRING_BODY_AT:]

    def _leave_rest(self, batch: Batch, indexes: list[int], seq: int) -> None:
        """Who has answered the question ``seq`` cannot say these; who was asked as well has not answered yet."""
        left = dict.fromkeys(indexes)
        places = [place if index in left else None for index, place in enumerate(batch.places)]
        rest = Batch(batch.keys, batch.stamps, places, batch.shared, batch.round, self.now_us, batch.clock)
        rest.first, rest.deadline_us = batch.first, batch.deadline_us
        rest.asked = dict(batch.asked)
        del self._batches[seq], batch.seqs[seq]
        rest.seqs, batch.seqs = batch.seqs, {}
        self._batches.update(dict.fromkeys(rest.seqs, rest))
        for other in rest.seqs.values():
            batch.frees(other, (index for index in batch.open() if index not in left))
        self._count_rest(rest)

    def _count_rest(self, rest: Batch) -> None:
        """Who waits for a batch waits for the rest of it too: ``_done`` of the first one takes one off."""
        if rest.round is not None:
            rest.round.undecided += 1
        for reader in self._readers(rest, range(len(rest.places))):
            reader.waiting += 1

    def _ask_rest(self, batch: Batch, indexes: list[int], peer: int = 0) -> None:
        """Ask about these keys once more: ``peer``, else, since who was asked cannot say, another one."""
        rest = Batch(
            [batch.keys[index] for index in indexes],
            [batch.stamps[index] for index in indexes],
            [batch.places[index] for index in indexes],
            [batch.shared[index] for index in indexes] if batch.shared else [],
            batch.round,
            self.now_us,
            batch.clock,
        )
        rest.asked = dict(batch.asked)
        self._count_rest(rest)
        if not peer or not self._ask(rest, peer):
            self._ask_another(rest)

    def on_range(self, peer: int, message: RangeResult, now_us: int) -> None:
        """An answer to ``RangeRead``. May raise ReadMiss, or ProtocolError for nonsense, then nothing has changed.

        What is compared ends where the first of the two pages was cut short; the rest is asked about next.
        """
        held = self._ranges.get(message.seq)
        if held is None or held.peer != peer:
            return
        self.now_us = now_us
        replica = self._replica
        if message.status not in (OK, EQUAL):
            self._range_elsewhere(held, held.end)
            del self._ranges[message.seq]
            held.reader.waiting -= 1
            return
        newer: list[bytes] = []
        older: list[bytes] = []
        if message.status == OK:
            held.reader.changed = True  # What makes the difference may have come here since the range was read.
            theirs = _entries(message.payload, held.start, held.end)
            here = replica.range_page(held.start, held.end, RANGE_ENTRIES)
            cuts = [last for last, more in ((max(theirs, default=b""), message.more), (here.last, here.more)) if more]
            after = keys.after(min(cuts)) if cuts else held.end
            theirs = {k: r for k, r in theirs.items() if k < after}
            mine = {k: r for k, r in iterate_payload(here.payload) if k < after}
            newer = [encode_entry(k, r) for k, r in theirs.items() if k not in mine or _beats(r, mine[k])]
            older = [encode_entry(k, r) for k, r in mine.items() if k not in theirs or _beats(r, theirs[k])]
        else:
            after = keys.after(held.last) if message.more or held.more else held.end
        if after < held.start:
            raise ProtocolError("a range that goes on behind nothing")
        more = after < held.end
        # Whatever may have to wait for a block comes before anything is changed: the answer is taken again then.
        page = replica.range_page(after, held.end, RANGE_ENTRIES) if more else None
        if newer:
            replica.apply(REPAIR, b"".join(newer), peer)
            held.reader.changed = True
            self.repaired_here += len(newer)
        del self._ranges[message.seq]
        reader = held.reader
        if older:
            self.repaired_there += len(older)
            self._push_range(held, after, older)
        if more:
            self.ask_range(reader, peer, after, held.end, now_us, held.asked, page)
        reader.waiting -= 1
        if not reader.waiting:
            reader.resume()

    def _range_elsewhere(self, held: _Range, end: bytes) -> None:
        """The peer cannot say, or does not take what it lacks: ask a replica that was not asked yet, up to ``end``.

        May raise ReadMiss, then nothing has changed. Counts into ``reader.waiting``.
        """
        other = next((peer for peer in self._others(keys.key_slot(held.start)) if peer not in held.asked), 0)
        if other:
            self.ask_range(held.reader, other, held.start, end, self.now_us, held.asked)
        else:
            self.give_up(held.reader)

    def _push_range(self, held: _Range, end: bytes, entries: list[bytes]) -> None:
        reader = held.reader
        reader.waiting += 1

        def done(acked: bool) -> None:
            if not acked:
                self._range_given_up(held, end)
            reader.waiting -= 1
            if not reader.waiting:
                reader.resume()

        self._writes.push(held.peer, b"".join(entries), done, self.now_us)

    def _range_given_up(self, held: _Range, end: bytes) -> None:
        """``_range_elsewhere`` where nobody can call it again."""
        try:
            self._range_elsewhere(held, end)
        except (ReadMiss, CorruptionError):
            self.give_up(held.reader)

    def on_damage(self, message: ReadResult) -> None:
        """What an answer says to differ cannot be read here, or has no room here: another replica may serve who reads
        it. Of a fast GET only the next one, which takes the general path."""
        batch = self._batches.get(message.seq)
        if batch is None:
            return
        self._forget(batch)
        for index, _, _ in message.differing:
            place = batch.places[index]
            if place.__class__ is tuple:
                place[0][place[1]] = errors.TRY_AGAIN
                self._replica.read_with_care(batch.keys[index])
            elif place is not None:
                place.fail(errors.CORRUPT)
        self._done(batch)

    def on_range_damage(self, message: RangeResult) -> None:
        """The same for a range."""
        held = self._ranges.pop(message.seq, None)
        if held is not None:
            held.reader.waiting -= 1
            held.reader.fail(errors.CORRUPT)

    # -- the end of a batch ------------------------------------------------------------------------

    def _forget(self, batch: Batch, answered: int = 0) -> None:
        """No answer is awaited any more. Whoever else was asked may be asked again, should ``answered`` not do."""
        for seq, peer in batch.seqs.items():
            self._batches.pop(seq, None)
            if peer != answered:
                batch.frees(peer, batch.open())
        batch.seqs.clear()

    def _done(self, batch: Batch) -> None:
        """All that the batch can tell is known."""
        for reader in self._readers(batch, range(len(batch.places))):
            reader.waiting -= 1
            if not reader.waiting:
                reader.resume()
        if batch.round is not None:
            self._decided(batch.round)

    def _decided(self, round_: Round) -> None:
        round_.undecided -= 1
        if not round_.undecided:
            self._settle(round_)

    def _fail(self, batch: Batch, indexes: Any) -> None:
        """Nobody else can answer for these keys."""
        for index in indexes:
            place = batch.places[index]
            if place.__class__ is tuple:
                self.count_failure(QUORUM)
                place[0][place[1]] = errors.NO_REPLICAS
            elif place is not None:
                self.give_up(place)

    def give_up(self, reader: Reader) -> None:
        """There are too few replicas for it."""
        self.count_failure(reader.level)
        reader.fail(errors.NO_REPLICAS)

    def count_failure(self, level: int) -> None:
        """A read of that level could not be made."""
        self.failed += 1
        self.failed_by[level] += 1

    def _peer_failed(self, batch: Batch, seq: int) -> None:
        """One of the peers that were asked will not answer."""
        del self._batches[seq]
        del batch.seqs[seq]
        self._ask_another(batch)

    def peer_lost(self, peer: int, now_us: int) -> None:
        """The link has ended: whoever waits for that peer asks another."""
        self.now_us = now_us
        for seq, batch in list(self._batches.items()):
            if seq in self._batches and batch.seqs.get(seq) == peer:
                self._peer_failed(batch, seq)
        for seq in [seq for seq, held in self._ranges.items() if held.peer == peer]:
            self._range_failed(seq)

    def _range_failed(self, seq: int) -> None:
        """The peer will not answer about a range: another one may."""
        held = self._ranges.pop(seq)
        self._range_given_up(held, held.end)
        held.reader.waiting -= 1

    def on_timer(self, now_us: int) -> None:
        """Ask others in place of the slow, give up what takes too long."""
        self.now_us = now_us
        for batch in list({id(batch): batch for batch in self._batches.values()}.values()):
            if now_us >= batch.deadline_us:
                self._forget(batch)
                self._fail(batch, range(len(batch.keys)))
                self._done(batch)
            elif now_us >= batch.hedge_us:
                batch.hedge_us = batch.deadline_us
                self._late.update(dict.fromkeys(batch.seqs.values()))
                self._ask_another(batch)
        for seq, held in list(self._ranges.items()):
            if now_us >= held.deadline_us:
                self._range_failed(seq)
            elif now_us >= held.deadline_us - READ_TIMEOUT_US + HEDGE_US:
                self._late[held.peer] = None

    def postpone(self, count_us: int) -> None:
        """Give all that is under way more time."""
        for batch in {id(batch): batch for batch in self._batches.values()}.values():
            batch.hedge_us += count_us
            batch.deadline_us += count_us
        for held in self._ranges.values():
            held.deadline_us += count_us

    def take_late(self) -> list[int]:
        """Peers that took longer than ``HEDGE_US`` since the last call."""
        late = list(self._late)
        self._late.clear()
        return late

    def busy(self) -> bool:
        """True while answers are awaited."""
        return bool(self._batches or self._ranges)

    def stats(self) -> dict[str, int]:
        """Counters for metrics."""
        return {
            "reads_open": len(self._batches) + len(self._ranges),
            "reads_asked": self.asked,
            "reads_differing": self.differing,
            "reads_hedged": self.hedged,
            "reads_failed": self.failed,
            "read_repairs_here": self.repaired_here,
            "read_repairs_there": self.repaired_there,
        }


def _entries(payload: bytes, start: bytes, end: bytes) -> dict[bytes, bytes]:
    """What a peer holds of a range. ProtocolError for anything else."""
    found = dict(entries_of(payload))
    if any(not start <= internal < end for internal in found):
        raise ProtocolError("an entry of a range that was not asked for")
    return found


def _may_revive(internal: bytes, entry: bytes, theirs: bytes) -> bool:
    """Whether an ``entry`` that is pushed is a grave, and what the peer holds a collection."""
    if internal[0] != keys.SPACE_RECORD or theirs[0] & TYPE_MASK <= STRING:
        return False
    ((_, mine),) = iterate_payload(entry)
    return not mine[0] & TYPE_MASK


def _beats(left: bytes, right: bytes) -> bool:
    """Whether ``left`` would replace ``right``; siblings may hold something new whichever stamp is higher."""
    if (left[0] | right[0]) & DVV:
        return siblings.join(right, left) != right
    if (left[0] | right[0]) & TYPE_MASK > STRING:
        return newer(right, left) != right
    if left[1:BODY_AT] != right[1:BODY_AT]:
        return left[1:BODY_AT] > right[1:BODY_AT]
    return left != right and not left[0] & TYPE_MASK


assert len(ZERO_STAMP) == BODY_AT - 1
