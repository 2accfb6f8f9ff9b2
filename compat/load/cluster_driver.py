"""A load generator that can follow each SET by a WAIT, for stores that acknowledge a write before it is replicated.

``python -m compat.load.cluster_driver --ports P,P,P --operation set-wait ...`` runs one process with one epoll loop.
``set-wait`` counts a SET and its ``WAIT 1 0`` as one request, sent together and done when both are answered and at
least one replica has it: an acknowledged write on two machines, which is what one QUORUM SET is. All operations cost
this process the same but for the longer request, so figures of two stores may be compared; its own processor time is
reported, since it shares the machine with the servers.

With ``--routed`` each key goes to the node that owns its slot by CLUSTER SLOTS; else any port takes any key. Each
connection keeps ``--pipeline`` requests on the way and sends the next ones when all are answered.

Prints one line of JSON: requests done in time, seconds, requests answered in all (a few more), latencies of a batch.
"""

from __future__ import annotations

import argparse
import array
import json
import random
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import hiredis

from compat.load.connection import Connection, ServerError, key_name
from compat.load.figures import percentile
from respkv.base.slots import SLOT_COUNT, slot_of

OPERATIONS: Final = ("set", "set-wait", "get", "fill")
#: Replies of one request.
REPLIES: Final = {"set": 1, "set-wait": 2, "get": 1, "fill": 1}
SILENCE_S: Final = 10.0
_RECV_BYTES: Final = 1 << 18
_WAIT: Final = b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n"


def owners_of_slots(port: int) -> list[int]:
    """Port of the owner of each slot, by CLUSTER SLOTS of the node at ``port``. ServerError when one has none."""
    owners = [0] * SLOT_COUNT
    with Connection(port, timeout_s=10) as connection:
        for first, last, owner, *_ in connection.call("CLUSTER", "SLOTS"):
            owners[first : last + 1] = [owner[1]] * (last + 1 - first)
    if 0 in owners:
        raise ServerError(f"slot {owners.index(0)} has no owner")
    return owners


def numbers_by_port(keys: int, ports: Sequence[int], *, routed: bool) -> dict[int, array.array[int]]:
    """The key numbers that each port takes. ServerError for an owner that is not among the ports."""
    if not routed:
        everything = array.array("I", range(keys))
        return dict.fromkeys(ports, everything)
    owners = owners_of_slots(ports[0])
    strangers = set(owners) - set(ports)
    if strangers:
        raise ServerError(f"slots belong to ports that were not named: {sorted(strangers)}")
    found = {port: array.array("I") for port in ports}
    for number in range(keys):
        found[owners[slot_of(key_name(number))]].append(number)
    return found


def request_maker(operation: str, value_bytes: int) -> Callable[[int], bytes]:
    """From a key number to the bytes of a request."""
    if operation == "get":
        return lambda number: b"*2\r\n$3\r\nGET\r\n$16\r\nkey:%012d\r\n" % number
    value = random.Random(5).choices(b"0123456789abcdef", k=value_bytes)
    head = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$" + b"%d\r\n" % value_bytes
    tail = bytes(value) + b"\r\n" + (_WAIT if operation == "set-wait" else b"")
    return lambda number: head % number + tail


Batch = tuple[int, bytes]


def random_batches(numbers: Sequence[int], pipeline: int, make: Callable[[int], bytes], seed: int) -> Iterator[Batch]:
    """Requests for random keys, without end."""
    pick, count = random.Random(seed).random, len(numbers)
    while True:
        yield pipeline, b"".join([make(numbers[int(pick() * count)]) for _ in range(pipeline)])


def every_key_once(numbers: Sequence[int], pipeline: int, make: Callable[[int], bytes]) -> Iterator[Batch]:
    """Requests for all of the numbers."""
    for at in range(0, len(numbers), pipeline):
        chunk = numbers[at : at + pipeline]
        yield len(chunk), b"".join([make(number) for number in chunk])


class Lane:
    """One connection with at most one batch on the way."""

    __slots__ = ("batches", "reader", "recv_into", "sent_at", "size", "sock", "waiting")

    def __init__(self, port: int, batches: Iterator[Batch], *, level: str) -> None:
        connection = Connection(port, timeout_s=SILENCE_S)
        if level:
            connection.call("RKV.LEVEL", level)
        self.sock: socket.socket = connection.sock
        # With a time limit each send and each receive would be two system calls.
        self.sock.setblocking(False)
        self.recv_into = self.sock.recv_into
        self.reader: Any = hiredis.Reader()
        self.batches = batches
        #: requests of the batch, and replies that are missing
        self.size = self.waiting = 0
        self.sent_at = 0.0

    def send(self, replies: int) -> bool:
        """Send the next batch; False when there is none."""
        batch = next(self.batches, None)
        if batch is None:
            return False
        self.size, data = batch
        self.waiting = self.size * replies
        self.sent_at = time.monotonic()
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent != len(data):
            self.sock.settimeout(SILENCE_S)
            self.sock.sendall(data[sent:])
            self.sock.setblocking(False)
        return True


class Driver:
    """All connections of one process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._operation: str = options.operation
        self._replies = REPLIES[options.operation]
        self._value_bytes: int = options.value_bytes
        make = request_maker(options.operation, options.value_bytes)
        by_port = numbers_by_port(options.keys, options.ports, routed=options.routed)
        ports = [port for port in options.ports if by_port[port]]
        count = max(options.connections, len(ports))
        shares = [ports[at % len(ports)] for at in range(count)]
        if not options.routed and options.operation == "fill":
            # Every port takes every key, so the keys are shared out among the connections.
            by_lane = [by_port[port][at::count] for at, port in enumerate(shares)]
        elif options.operation == "fill":
            by_lane = [by_port[port][at // len(ports) :: shares.count(port)] for at, port in enumerate(shares)]
        else:
            by_lane = [by_port[port] for port in shares]
        self._lanes = [
            Lane(
                port,
                every_key_once(numbers, options.pipeline, make) if options.operation == "fill"
                else random_batches(numbers, options.pipeline, make, seed),
                level=options.level,
            )
            for seed, (port, numbers) in enumerate(zip(shares, by_lane))
        ]  # fmt: skip
        #: What a whole batch is mostly answered with: then there is no need to look at each reply.
        usual = {"set": b"+OK\r\n", "fill": b"+OK\r\n", "set-wait": b"+OK\r\n:1\r\n"}.get(options.operation, b"")
        self._usual_replies = usual * options.pipeline
        self._usual_count = self._replies * options.pipeline
        self._buffer = bytearray(_RECV_BYTES)
        self.answered = 0
        self.missing = 0
        self.latencies_ms: array.array[float] = array.array("d")

    def run(self, seconds: float) -> dict[str, Any]:
        """Drive for so long, or until every key is filled. ServerError for an error reply, a closed connection, a
        write that no replica has taken, and silence."""
        try:
            took_s, in_time = self._drive(seconds)
        finally:
            for lane in self._lanes:
                lane.sock.close()
        return {
            "requests": in_time, "seconds": took_s, "answered": self.answered, "missing": self.missing,
            "p50_ms": percentile(self.latencies_ms, 50), "p99_ms": percentile(self.latencies_ms, 99),
            "driver_cpu_s": time.process_time(),
        }  # fmt: skip

    def _drive(self, seconds: float) -> tuple[float, int]:
        """(seconds it took, requests answered in them); then what is on the way is awaited."""
        busy = {lane.sock.fileno(): lane for lane in self._lanes if lane.send(self._replies)}
        with select.epoll() as poll:
            for descriptor in busy:
                poll.register(descriptor, select.EPOLLIN)
            began = time.monotonic()
            self._turn(poll, busy, until=began + seconds)
            took_s, in_time = time.monotonic() - began, self.answered
            self._turn(poll, busy, until=0.0)
        return took_s, in_time

    def _turn(self, poll: select.epoll, busy: dict[int, Lane], *, until: float) -> None:
        """Until the moment, or until nothing is on the way; no new batches after the moment."""
        replies, note = self._replies, self.latencies_ms.append
        while busy:
            events = poll.poll(SILENCE_S)
            if not events:
                raise ServerError(f"no answer for {SILENCE_S:.0f} s")
            now = time.monotonic()
            for descriptor, _ in events:
                lane = busy[descriptor]
                self._collect(lane)
                if lane.waiting:
                    continue
                note((now - lane.sent_at) * 1000)
                self.answered += lane.size
                if now >= until or not lane.send(replies):
                    del busy[descriptor]
                    poll.unregister(descriptor)
            if now >= until > 0.0:
                return

    def _collect(self, lane: Lane) -> None:
        """Take what has come and look at each reply."""
        buffer, usual = self._buffer, self._usual_replies
        size = lane.recv_into(buffer)
        if not size:
            raise ServerError("the server closed a connection")
        if size == len(usual) and lane.waiting == self._usual_count and buffer[:size] == usual:
            lane.waiting = 0
            return
        gets = lane.reader.gets
        lane.reader.feed(buffer, 0, size)
        while (reply := gets()) is not False:
            lane.waiting -= 1
            if reply == b"OK":
                continue
            if isinstance(reply, hiredis.ReplyError):
                raise ServerError(str(reply))
            if self._operation == "get":
                if reply is None:
                    self.missing += 1
                elif len(reply) != self._value_bytes:
                    raise ServerError(f"a value of {len(reply)} bytes")
            elif self._operation != "set-wait" or not isinstance(reply, int) or reply < 1:
                raise ServerError(f"a reply is {reply!r:.60}: not replicated, or no reply to {self._operation}")


def parse_options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compat.load.cluster_driver", description=__doc__)
    parser.add_argument("--ports", type=lambda text: [int(word) for word in text.split(",")], required=True)
    parser.add_argument("--operation", choices=OPERATIONS, required=True)
    parser.add_argument("--routed", action="store_true", help="send each key to the owner of its slot")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--pipeline", type=int, default=1)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--level", default="", help="RKV.LEVEL of every connection")
    options = parser.parse_args(argv)
    if min(options.connections, options.pipeline, options.keys, options.seconds) <= 0:
        parser.error("connections, pipeline, keys and seconds must be positive")
    return options


def main(argv: list[str]) -> int:
    options = parse_options(argv)
    try:
        print(json.dumps(Driver(options).run(options.seconds)))
    except (ServerError, OSError) as reason:
        print(f"cluster_driver: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
