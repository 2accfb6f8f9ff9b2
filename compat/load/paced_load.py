"""A load of a fixed rate: pipelined batches over a few connections each 2 ms, sent whether answers came or not.

redis-benchmark only knows full speed. Run as a process of its own, so that it takes no time from a probe:
``python -m compat.load.paced_load --port N --gets-per-second R --sets-per-second W --seconds S --keys K``. It prints
one line of JSON: commands sent, those put off because the server was a whole window behind, the rate reached.
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import sys
import time
from typing import Any

import hiredis

from compat.load.connection import Connection, ServerError, encode, key_name

CONNECTIONS = 8
TICK_S = 0.002
#: Unanswered commands of a connection beyond which its batch is put off, so that memory is bounded.
BEHIND_MAX = 5_000


class _Lane:
    __slots__ = ("connection", "reader", "waiting")

    def __init__(self, port: int) -> None:
        self.connection = Connection(port, timeout_s=60)
        self.reader = hiredis.Reader()
        self.waiting = 0

    def collect(self) -> None:
        data = self.connection.sock.recv(1 << 18)
        if not data:
            raise ServerError("the server closed the connection of the load")
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            if isinstance(reply, hiredis.ReplyError):
                raise ServerError(str(reply))
            self.waiting -= 1


def drive(options: argparse.Namespace) -> dict[str, Any]:
    """Send at the rate for the time. ServerError for an error reply or a closed connection."""
    rng = random.Random(4)
    lanes = [_Lane(options.port) for _ in range(CONNECTIONS)]
    sent = put_off = tick = 0
    owed = {"GET": 0.0, "SET": 0.0}
    value = rng.randbytes(options.value_bytes)
    with selectors.DefaultSelector() as selector:
        for lane in lanes:
            selector.register(lane.connection.sock, selectors.EVENT_READ, lane)
        began = time.monotonic()
        while (now := time.monotonic()) < began + options.seconds:
            if now >= began + tick * TICK_S:
                tick += 1
                owed["GET"] += options.gets_per_second * TICK_S
                owed["SET"] += options.sets_per_second * TICK_S
                lane = lanes[tick % CONNECTIONS]
                gets, sets = int(owed["GET"]), int(owed["SET"])
                owed["GET"] -= gets
                owed["SET"] -= sets
                if lane.waiting > BEHIND_MAX:
                    put_off += gets + sets
                else:
                    batch = [encode("GET", key_name(rng.randrange(options.keys))) for _ in range(gets)]
                    batch += [encode("SET", key_name(rng.randrange(options.keys)), value) for _ in range(sets)]
                    lane.connection.sock.sendall(b"".join(batch))
                    lane.waiting += gets + sets
                    sent += gets + sets
            for ready, _ in selector.select(max(0.0, began + tick * TICK_S - time.monotonic())):
                ready.data.collect()
    for lane in lanes:
        lane.connection.close()
    return {"sent": sent, "put_off": put_off, "per_second": sent / (time.monotonic() - began)}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="compat.load.paced_load")
    for name in ("port", "keys", "value-bytes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("gets-per-second", "sets-per-second", "seconds"):
        parser.add_argument(f"--{name}", type=float, required=True)
    try:
        print(json.dumps(drive(parser.parse_args(argv))))
    except (ServerError, OSError) as reason:
        print(f"paced_load: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
