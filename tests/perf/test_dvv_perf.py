"""What siblings cost a replica, against what plain records cost it, measured in the same run.

Figures are processor time of the best of some rounds; the ratios asked for are about twice those of a quiet machine,
so that only a real loss shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from respkv.base.ids import STRING
from respkv.causality import record, siblings
from respkv.causality.dvv import EMPTY, Container, make_actor, merge, update
from respkv.causality.hlc import pack_stamp

ROUNDS = 3000


def cost(run: Callable[[], object], rounds: int = 5) -> float:
    """Seconds of processor time, the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(ROUNDS):
            run()
        best = min(best, time.process_time() - start)
    return best


def pair() -> tuple[Container, Container]:
    """A key with six actors of which three wrote at once: each side holds two of the three siblings."""
    base = EMPTY
    for node in range(1, 7):
        base = update(base, actor=make_actor(node, 1), hlc=node, context=base.clock, value=b"x" * 200)
    first, second, third = [
        update(base, actor=make_actor(node, 1), hlc=10 + node, context=base.clock, value=b"y" * 200)
        for node in (1, 2, 3)
    ]
    return merge(first, second), merge(second, third)


def plain_cost() -> float:
    """Deciding between two plain records and taking the winner apart and together again."""
    left, right = (record.encode(STRING, pack_stamp(number, 1), b"x" * 200, number) for number in (1, 2))

    def run() -> None:
        kind, stamp, expire_at_ms, body = record.decode(record.newer(left, right))
        record.encode(kind, stamp, body, expire_at_ms)

    return cost(run)


def test_merge() -> None:
    left, right = pair()
    ratio = cost(lambda: merge(left, right)) / plain_cost()
    assert ratio < 4, f"a merge costs {ratio:.1f} plain records"


def test_join() -> None:
    """Two records in, one out: decode both, merge, encode."""
    left, right = (siblings.encode(container) for container in pair())
    ratio = cost(lambda: siblings.join(left, right)) / plain_cost()
    assert ratio < 35, f"a join costs {ratio:.1f} plain records"


def test_token() -> None:
    """Comparing two containers by their tokens decodes nothing."""
    data = siblings.encode(pair()[0])
    ratio = cost(lambda: siblings.token(data)) / plain_cost()
    assert ratio < 1.5, f"a token costs {ratio:.1f} plain records"
