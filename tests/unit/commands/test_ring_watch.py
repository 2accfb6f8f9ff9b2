"""RKV.WHERE, RKV.VERIFY and RKV.REPAIR: what the answers of members become."""

from __future__ import annotations

from typing import Any

import pytest

from respkv.base.slots import slot_of
from respkv.causality.hlc import pack_stamp
from respkv.commands.command import docs_of
from respkv.commands.ring_watch import COMMANDS, KEY_BYTES_MAX
from respkv.node.repair_run import EQUAL, UNREACHABLE, Row
from respkv.resp.reply import encode
from tests.unit.commands.fake_ring import FakeRing, connect, join
from tests.unit.commands.fake_server import Client, ErrorText, FakeServer
from tests.unit.commands.test_ring import NO_RING, mapped

ARGUMENTS = {"rkv.where": ("k",), "rkv.verify": ("1",), "rkv.repair": ()}


def member(ring: FakeRing | None = None) -> tuple[FakeRing, Client]:
    ring = ring or FakeRing()
    return ring, connect(join(FakeServer(), ring), cluster_face=False)


def rows(answer: dict[bytes, Any], name: bytes = b"replicas") -> dict[int, dict[bytes, Any]]:
    return {row[b"short"]: row for row in map(mapped, answer[name])}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_only_members_of_a_formed_ring_answer(name: str) -> None:
    assert FakeServer().client()(name, *ARGUMENTS[name]) == NO_RING
    _, client = member(FakeRing(0))
    assert client(name, *ARGUMENTS[name]).startswith("LOADING The ring is not formed yet: ")


def test_where() -> None:
    ring, client = member()
    assert ring.membership is not None and ring.placement is not None
    ring.membership.apply((2, 2, 1, 1))
    new, older = pack_stamp((1700 << 16) + 5, 3), pack_stamp(1600 << 16, 1)
    ring.watch.answers = {
        1: {"holds": b"value", "stamp": older, "hints:2": b"4"},
        2: None,
        3: {"holds": b"tombstone", "stamp": new, "hints:2": b"2", "hints:1": b"1"},
    }
    answer = mapped(client.result(client("RKV.WHERE", "k")))
    assert ring.watch.asked == [(0, b"k", [1, 2, 3])]
    assert answer[b"slot"] == slot_of(b"k") and answer[b"acting-primary"] == 3 and answer[b"members-silent"] == [2]
    found = rows(answer)
    assert list(found) == list(ring.placement.table[slot_of(b"k")])
    assert [row[b"role"] for row in found.values()] == [b"primary", b"replica", b"replica"]
    assert found[3][b"stamp"] == b"1700-5@3" and found[3][b"newest"] == b"yes" and found[3][b"holds"] == b"tombstone"
    assert found[1][b"stamp"] == b"1600-0@1" and found[1][b"newest"] == b"no" and found[1][b"reachable"] == b"yes"
    assert found[2][b"reachable"] == b"no" and found[2][b"holds"] == b"unknown" and found[2][b"state"] == b"dead"
    assert [found[short][b"hints-pending"] for short in (1, 2, 3)] == [1, 6, 0]
    assert found[1][b"myself"] == b"yes" and found[1][b"address"] == b"10.0.0.1:7001"


def test_where_nobody_holds_anything() -> None:
    ring, client = member()
    ring.watch.answers = {short: {"holds": b"nothing", "stamp": b""} for short in (1, 2, 3)}
    found = rows(mapped(client.result(client("RKV.WHERE", "k"))))
    assert {row[b"newest"] for row in found.values()} == {b"no"} and {row[b"stamp"] for row in found.values()} == {b""}


def test_where_asks_about_the_database_of_the_connection() -> None:
    ring, client = member()
    ring.watch.answers = dict.fromkeys((1, 2, 3))
    client("SELECT", 3)
    client("RKV.WHERE", "k")
    assert ring.watch.asked == [(3, b"k", [1, 2, 3])]


def test_where_of_a_key_that_is_too_long() -> None:
    _, client = member()
    assert client("RKV.WHERE", "k" * (KEY_BYTES_MAX + 1)).startswith("ERR the key is longer than 256 KiB")


def told(root: bytes = b"aa", exact: bytes = b"1", mark: bytes = b"0") -> dict[str, bytes]:
    return {"exact": exact, "root": root, "mark": mark}


@pytest.mark.parametrize(
    ("answers", "equal", "complete"),
    [
        ((told(), told(), told()), b"yes", b"yes"),
        ((told(), told(b"bb"), told()), b"no", b"yes"),
        ((told(), None, told()), b"no", b"no"),
        ((told(), told(exact=b"0"), told()), b"no", b"no"),
        ((told(), told(mark=b"5"), told()), b"no", b"yes"),
        ((None, None, None), b"no", b"no"),
        ((told(), {}, told()), b"no", b"no"),
    ],
)
def test_verify(answers: tuple[dict[str, bytes] | None, ...], equal: bytes, complete: bytes) -> None:
    ring, client = member()
    ring.watch.answers = dict(zip((1, 2, 3), answers, strict=True))
    answer = mapped(client.result(client("RKV.VERIFY", 77)))
    assert ring.placement is not None and ring.watch.asked == [(77, ring.placement.table[77])]
    assert (answer[b"slot"], answer[b"equal"], answer[b"complete"]) == (77, equal, complete)
    for short, facts in ring.watch.answers.items():
        row = rows(answer)[short]
        assert row[b"reachable"] == (b"no" if facts is None else b"yes")
        assert row[b"root"] == (facts or {}).get("root", b"")


@pytest.mark.parametrize("word", ["-1", "16384", "x", ""])
def test_slots_that_are_none(word: str) -> None:
    _, client = member()
    assert client("RKV.VERIFY", word) == client("RKV.REPAIR", word) == ErrorText("ERR Invalid slot")


def done(state: str, differing: int = 0, sent: int = 0) -> Row:
    row = Row()
    row.state, row.slots_differing, row.sent, row.sessions = state, differing, sent, 1
    return row


def test_repair_answers_when_it_is_over() -> None:
    ring, client = member()
    pending = client("RKV.REPAIR", 5)
    session = client.session
    assert ring.watch.asked == [5] and pending.reply is None and session.blocked is pending
    ring.watch.run.rows = {2: done(EQUAL, 1, 3), 3: done(UNREACHABLE)}
    ring.watch.run.end()
    answer = mapped(client.result(pending))
    assert answer[b"slots"] == 5 and answer[b"equal"] == b"no" and answer[b"records-received"] == 7
    assert answer[b"slots-differing"] == 1 and answer[b"records-sent"] == 3
    found = rows(answer, b"co-replicas")
    assert found[2][b"result"] == b"equal" and found[3][b"result"] == b"unreachable" and session.blocked is None


def test_repair_can_be_unblocked() -> None:
    ring, client = member()
    pending = client("RKV.REPAIR")
    ring.watch.run.rows = {2: done(EQUAL)}
    pending.on_unblock(None)
    answer = mapped(client.result(pending))
    assert answer[b"slots"] == b"all of this node" and answer[b"equal"] == b"yes"


def test_repair_of_a_slot_that_is_not_here_says_where_it_is() -> None:
    ring, client = member(FakeRing(5, replicas=2))
    assert ring.placement is not None
    slot = next(slot for slot in range(16384) if 1 not in ring.placement.table[slot])
    addresses = ", ".join(f"10.0.0.{short}:700{short}" for short in ring.placement.table[slot])
    assert client("RKV.REPAIR", slot) == ErrorText(f"ERR this node has no copy of slot {slot}: ask one of {addresses}")
    assert client("RKV.REPAIR", slot, 1) == ErrorText("ERR wrong number of arguments for 'rkv.repair' command")


def test_rows_are_documented() -> None:
    for spec in COMMANDS:
        assert spec.summary and spec.complexity and spec.group == "cluster"
        assert b"summary" in encode(docs_of(spec), 2)
