"""Rings to test with: members by number, whose ids do not depend on anything but the number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from respkv.base.coding import U64BE
from respkv.cluster.ring import Member, Ring, first_ring

CLUSTER = b"cluster-id-16byt"


def node_id(number: int) -> bytes:
    """16 bytes that order like nothing in particular."""
    return U64BE.pack(number * 0x9E3779B97F4A7C15 & (1 << 64) - 1) + U64BE.pack(number)


def member(number: int, *, cluster_enabled: bool = False, alternate: bool = True) -> Member:
    """Member ``number``: clients at 7000 + number and, for the other face, at 7100 + number."""
    return Member(
        node_id=node_id(number),
        short=number,
        client_host=f"10.0.0.{number}",
        client_port=7000 + number,
        alternate_port=7100 + number if alternate else 0,
        cluster_enabled=cluster_enabled,
        node_host=f"10.1.0.{number}",
        node_port=17000 + number,
    )


@cache
def form(count: int, *, seed: int = 1, replicas: int = 3) -> Ring:
    """A formed ring of ``count`` members."""
    members = [member(number) for number in range(1, count + 1)]
    return first_ring(CLUSTER, seed=seed, replicas=replicas, members=members)


def with_members(ring: Ring, members: Iterable[Member]) -> Ring:
    """The next epoch of ``ring``, with these members and its seed."""
    ordered = tuple(sorted(members, key=lambda each: each.node_id))
    return replace(ring, epoch=ring.epoch + 1, members=ordered, voters=(ordered[0].node_id,))
