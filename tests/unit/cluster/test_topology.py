"""The ring as clients see it: shapes, who is named when nodes fail, and that all answers agree."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import hiredis
import pytest

from respkv.base.errors import CommandError
from respkv.base.slots import SLOT_COUNT
from respkv.cluster.placement import Placement
from respkv.cluster.ring import Ring, first_ring
from respkv.cluster.topology import Link, OwnedRange, Topology, public_id, shard_id
from respkv.resp.reply import Reply, encode
from tests.unit.cluster.rings import CLUSTER, form, member, node_id

#: A live Redis 7.0 cluster of two nodes: field names and types are compared with ours.
REDIS_ID = b"11c60bcab58f77bc83ed661060906248926c9b11"
REDIS_SLOTS = {
    2: b"*1\r\n*3\r\n:0\r\n:9000\r\n*4\r\n$9\r\n127.0.0.1\r\n:29417\r\n$40\r\n" + REDIS_ID + b"\r\n*0\r\n",
    3: b"*1\r\n*3\r\n:0\r\n:9000\r\n*4\r\n$9\r\n127.0.0.1\r\n:29417\r\n$40\r\n" + REDIS_ID + b"\r\n%0\r\n",
}
REDIS_SHARDS_BODY = (
    b"$2\r\nid\r\n$40\r\n" + REDIS_ID + b"\r\n$4\r\nport\r\n:29417\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n"
    b"$8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$18\r\nreplication-offset\r\n:0\r\n"
    b"$6\r\nhealth\r\n$6\r\nonline\r\n"
)
REDIS_SHARDS = {
    2: b"*1\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:9000\r\n$5\r\nnodes\r\n*1\r\n*14\r\n" + REDIS_SHARDS_BODY,
    3: b"*1\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:9000\r\n$5\r\nnodes\r\n*1\r\n%7\r\n" + REDIS_SHARDS_BODY,
}
REDIS_LINKS_BODY = (
    b"$9\r\ndirection\r\n$2\r\nto\r\n$4\r\nnode\r\n$40\r\n" + REDIS_ID + b"\r\n$11\r\ncreate-time\r\n:1795525934582\r\n"
    b"$6\r\nevents\r\n$1\r\nr\r\n$21\r\nsend-buffer-allocated\r\n:0\r\n$16\r\nsend-buffer-used\r\n:0\r\n"
)
REDIS_LINKS = {2: b"*1\r\n*12\r\n" + REDIS_LINKS_BODY, 3: b"*1\r\n%6\r\n" + REDIS_LINKS_BODY}
REDIS_INFO = [
    "cluster_state",
    "cluster_slots_assigned",
    "cluster_slots_ok",
    "cluster_slots_pfail",
    "cluster_slots_fail",
    "cluster_known_nodes",
    "cluster_size",
    "cluster_current_epoch",
    "cluster_my_epoch",
    "cluster_stats_messages_sent",
    "cluster_stats_messages_received",
    "total_cluster_links_buffer_limit_exceeded",
]


def topology(ring: Ring, states: Mapping[int, str] | None = None, *, me: int = 1, **options: Any) -> Topology:
    made = Topology(ring, Placement(ring), states=states or {}, me=me, **options)
    made.check_invariants()
    return made


def read(reply: Reply, proto: int = 3) -> Any:
    """The reply as a client's parser sees it."""
    reader = hiredis.Reader()
    reader.feed(encode(reply, proto))
    return reader.gets()


def skeleton(value: Any) -> Any:
    """Types, and the names of fields, without the values; of equal elements of an array one."""
    if isinstance(value, dict):
        return {key: skeleton(each) for key, each in value.items()}
    if isinstance(value, list):
        parts = [skeleton(each) for each in value]
        return [part for index, part in enumerate(parts) if part not in parts[:index]]
    return type(value)


def flat_names(value: Any) -> list[bytes]:
    """The names in an array that stands for a map."""
    return list(value[::2])


def short_by_name(ring: Ring) -> dict[str, int]:
    return {public_id(each.node_id): each.short for each in ring.members}


def node_lines(made: Topology, **arguments: Any) -> list[list[str]]:
    text = read(made.nodes(**arguments), 2).decode()
    assert text.endswith("\n")
    return [line.split(" ") for line in text.splitlines()]


def slots_of_nodes(made: Topology, ring: Ring) -> dict[int, int]:
    """slot -> short, from CLUSTER NODES."""
    names, found = short_by_name(ring), {}
    for name, *_, in_words in [(line[0], line[8:]) for line in node_lines(made)]:
        for word in in_words:
            first, _, last = word.partition("-")
            found.update(dict.fromkeys(range(int(first), int(last or first) + 1), names[name]))
    return found


def slots_of_shards(made: Topology, ring: Ring) -> dict[int, int]:
    names, found = short_by_name(ring), {}
    for shard in read(made.shards()):
        bounds = shard[b"slots"]
        for first, last in zip(bounds[::2], bounds[1::2], strict=True):
            master = shard[b"nodes"][0]
            assert master[b"role"] == b"master"
            found.update(dict.fromkeys(range(first, last + 1), names[master[b"id"].decode()]))
    return found


def slots_of_slots(made: Topology, ring: Ring) -> dict[int, int]:
    names = short_by_name(ring)
    return {
        slot: names[nodes[0][2].decode()]
        for first, last, *nodes in read(made.slots())
        for slot in range(first, last + 1)
    }


@pytest.mark.parametrize("announce", [False, True])
@pytest.mark.parametrize("count", [1, 3, 6])
def test_all_answers_agree_whatever_fails(count: int, announce: bool) -> None:
    ring = form(count)
    rng = random.Random(count)
    for _ in range(4):
        states = {each.short: rng.choice(["alive", "alive", "suspect", "dead"]) for each in ring.members}
        made = topology(ring, states, announce_replicas=announce)
        owners = {slot: made.owner(slot) for slot in range(SLOT_COUNT)}
        assert slots_of_slots(made, ring) == slots_of_nodes(made, ring) == slots_of_shards(made, ring) == owners
        for slot in rng.sample(range(SLOT_COUNT), 50):
            owner = made.owner(slot)
            assert made.moved(slot) == b"-MOVED %d 10.0.0.%d:%d\r\n" % (slot, owner, 7100 + owner)


@pytest.mark.parametrize("proto", [2, 3])
def test_shapes_are_those_of_redis(proto: int) -> None:
    made = topology(form(3))
    reference = hiredis.Reader()
    for mine, theirs in (
        (made.slots(), REDIS_SLOTS),
        (made.shards(), REDIS_SHARDS),
        (made.links([Link(2, True, 1795525934582, False, 0, 0)]), REDIS_LINKS),
    ):
        reference.feed(theirs[proto])
        assert skeleton(read(mine, proto)) == skeleton(reference.gets())


def test_flat_maps_name_the_fields_in_the_order_of_redis() -> None:
    made = topology(form(3))
    reference = hiredis.Reader()
    reference.feed(REDIS_SHARDS[2])
    theirs, mine = reference.gets()[0], read(made.shards(), 2)[0]
    assert flat_names(mine) == flat_names(theirs)
    assert flat_names(mine[3][0]) == flat_names(theirs[3][0])
    reference.feed(REDIS_LINKS[2])
    links = read(made.links([Link(3, False, 5, True, 7, 6)]), 2)
    assert flat_names(links[0]) == flat_names(reference.gets()[0])
    assert links[0][1::2] == [b"from", public_id(node_id(3)).encode(), 5, b"rw", 7, 6]


def test_links_of_strangers_are_left_out() -> None:
    assert read(topology(form(2)).links([Link(9, True, 1, False, 0, 0)])) == []


def test_info_has_the_fields_of_redis() -> None:
    made = topology(form(3), {2: "suspect"})
    assert encode(made.info(sent=1, received=2, links_over_limit=3), 3).startswith(b"=")
    text = read(made.info(sent=1, received=2, links_over_limit=3), 2).decode()
    assert text.endswith("\r\n")
    rows = dict(line.split(":") for line in text.split("\r\n")[:-1])
    assert list(rows) == REDIS_INFO
    assert rows["cluster_state"] == "ok" and rows["cluster_known_nodes"] == "3" and rows["cluster_size"] == "2"
    assert rows["cluster_current_epoch"] == rows["cluster_my_epoch"] == "1"
    assert (rows["cluster_stats_messages_sent"], rows["cluster_stats_messages_received"]) == ("1", "2")
    assert rows["total_cluster_links_buffer_limit_exceeded"] == "3"


def test_a_healthy_ring_names_the_primaries_alone() -> None:
    ring = form(6)
    placement = Placement(ring)
    made = Topology(ring, placement, states={}, me=4)
    assert [made.owner(slot) for slot in range(SLOT_COUNT)] == [group[0] for group in placement.table]
    assert all(len(owners) == 1 for _, _, owners in made.ranges)
    assert {made.health(slot) for slot in range(SLOT_COUNT)} == {"ok"}
    assert not made.is_down()


def test_node_lines() -> None:
    made = topology(form(3), {3: "suspect", 2: "dead"}, me=1)
    lines = node_lines(made, pongs_ms={1: 99, 2: 1234})
    assert [line[0] for line in lines[:1]] == [public_id(node_id(1))]
    by_address = {line[1]: line[2:8] for line in lines}
    assert by_address == {
        "10.0.0.1:7101@17001": ["myself,master", "-", "0", "0", "1", "connected"],
        "10.0.0.2:7102@17002": ["master,fail", "-", "0", "1234", "1", "disconnected"],
        "10.0.0.3:7103@17003": ["master,fail?", "-", "0", "0", "1", "connected"],
    }


def test_every_node_prints_the_same_ranges() -> None:
    ring = form(5)
    texts = []
    for me in range(1, 6):
        lines = node_lines(topology(ring, me=me))
        assert lines[0][2] == "myself,master" and sum("myself" in line[2] for line in lines) == 1
        texts.append(sorted((line[0], line[8:]) for line in lines))
    assert all(text == texts[0] for text in texts)


def test_a_range_of_one_slot_is_a_single_number() -> None:
    made = topology(form(10))
    single = next(first for first, last, _ in made.ranges if first == last)
    assert any(str(single) in line[8:] for line in node_lines(made))


def test_a_suspected_node_gives_way_to_an_alive_one_and_stays_before_a_dead_one() -> None:
    ring = form(3)
    placement = Placement(ring)
    for states, expected in (
        ({2: "suspect"}, {(2, 3, 1): 3, (3, 2, 1): 3, (2, 1, 3): 1}),
        ({2: "suspect", 3: "dead"}, {(2, 3, 1): 1, (3, 2, 1): 1}),
        ({2: "dead"}, {(2, 3, 1): 3, (1, 2, 3): 1}),
    ):
        made = topology(ring, states)
        for group, owner in expected.items():
            slot = placement.table.index(group)
            assert made.owner(slot) == owner


def test_a_slot_whose_replicas_are_all_dead_keeps_its_primary() -> None:
    ring = form(6, replicas=2)
    placement = Placement(ring)
    dead = {4: "dead", 5: "dead"}
    slot = next(slot for slot, group in enumerate(placement.table) if set(group) == {4, 5})
    made = topology(ring, dead, announce_replicas=True)
    assert made.owner(slot) == placement.table[slot][0]
    assert made.health(slot) == "fail"
    named = next(owners for first, last, owners in made.ranges if first <= slot <= last)
    assert named == (placement.table[slot][0],)


def test_this_node_believes_itself_alive() -> None:
    made = topology(form(3), {1: "dead", 2: "alive"}, me=1)
    assert made.state(1) == made.state(2) == "alive"


def test_health_of_slots() -> None:
    ring = form(3)
    for states, health in (
        ({}, "ok"),
        ({2: "suspect"}, "ok"),
        ({2: "dead"}, "ok"),
        ({2: "suspect", 3: "suspect"}, "pfail"),
        ({2: "dead", 3: "suspect"}, "pfail"),
        ({2: "dead", 3: "dead"}, "fail"),
    ):
        made = topology(ring, states)
        assert {made.health(slot) for slot in range(SLOT_COUNT)} == {health}
        assert made.slots_by_health[made.health(0)] == SLOT_COUNT
        assert made.is_down() == (health == "fail")


def test_one_failed_slot_takes_the_cluster_down_only_if_full_coverage_is_required() -> None:
    ring = form(6)
    states = {2: "dead", 3: "dead"}
    strict = topology(ring, states)
    assert 0 < strict.slots_by_health["fail"] < SLOT_COUNT
    assert strict.is_down()
    assert not topology(ring, states, require_full_coverage=False).is_down()
    everybody = dict.fromkeys(range(2, 7), "dead")
    assert topology(ring, everybody, require_full_coverage=False).is_down()


def test_replicas_are_announced_only_when_asked_for() -> None:
    ring = form(6)
    placement = Placement(ring)
    made = topology(ring, {2: "dead", 3: "suspect"}, announce_replicas=True)
    for first, last, owners in made.ranges:
        for slot in (first, last):
            assert 2 not in owners
            assert set(owners) == set(placement.table[slot]) - {2}
    name = public_id(node_id(4)).encode()
    lines = [line.decode().split(" ") for line in read(made.replicas(name))]
    behind = {short for _, _, owners in made.ranges if owners[0] == 4 for short in owners[1:]}
    assert {short_by_name(ring)[line[0]] for line in lines} == behind
    assert all(line[2].removeprefix("myself,").startswith("slave") and line[3] == name.decode() for line in lines)
    assert read(topology(ring).replicas(name)) == []


def test_announced_replicas_are_named_behind_the_master() -> None:
    made = topology(form(3), announce_replicas=True)
    first, last, *nodes = read(made.slots())[0]
    assert (first, last) == made.ranges[0][:2]
    assert [node[2].decode() for node in nodes] == [public_id(node_id(short)) for short in made.ranges[0].owners]
    roles = {tuple(node[b"role"] for node in shard[b"nodes"]) for shard in read(made.shards())}
    assert roles == {(b"master", b"replica", b"replica")}
    assert len(read(made.shards())) == 6


def test_shards_show_the_dead_and_those_without_slots() -> None:
    shards = read(topology(form(3), {2: "dead"}).shards())
    assert [shard[b"nodes"][0][b"health"] for shard in shards if not shard[b"slots"]] == [b"fail"]
    assert len(shards) == 3
    announced = read(topology(form(3), {2: "dead"}, announce_replicas=True).shards())
    assert [shard[b"slots"] for shard in announced if shard[b"nodes"][0][b"health"] == b"fail"] == [[]]


def test_a_node_serves_what_it_holds() -> None:
    ring = form(5)
    placement = Placement(ring)
    made = Topology(ring, placement, states={3: "dead"}, me=2)
    assert [slot for slot in range(SLOT_COUNT) if made.serves(slot)] == list(placement.owned(2))


def test_redirections_can_make_no_loop() -> None:
    """Whatever two nodes believe, who is named serves the slot."""
    ring = form(6)
    placement = Placement(ring)
    rng = random.Random(11)
    for _ in range(20):
        me = rng.randint(1, 6)
        states = {short: rng.choice(["alive", "suspect", "dead"]) for short in range(1, 7)}
        made = Topology(ring, placement, states=states, me=me)
        assert all(made.owner(slot) in placement.table[slot] for slot in range(0, SLOT_COUNT, 7))


def test_ids() -> None:
    names = [public_id(node_id(number)) for number in range(1, 4)]
    shards = [shard_id(node_id(number)) for number in range(1, 4)]
    assert len(set(names + shards)) == 6
    assert all(len(name) == 40 and set(name) <= set("0123456789abcdef") for name in names + shards)
    assert public_id(bytes(range(16))) == "000102030405060708090a0b0c0d0e0f8355e3a6"
    assert shard_id(bytes(range(16))) == "56ecf972f0ffcdb307afa31528c4a515eefff25b"
    made = topology(form(3), me=2)
    assert made.my_id() == b"$40\r\n" + names[1].encode() + b"\r\n"
    assert made.my_shard_id() == b"$40\r\n" + shards[1].encode() + b"\r\n"


def test_unknown_nodes() -> None:
    made = topology(form(3))
    for ask in (made.replicas, made.find, lambda name: made.count_failure_reports(name, {})):
        for name in (b"x", public_id(node_id(4)).encode(), public_id(node_id(1)).upper().encode()):
            with pytest.raises(CommandError) as caught:
                ask(name)
            assert caught.value.reply == b"-ERR Unknown node " + name + b"\r\n"


def test_failure_reports_are_counted() -> None:
    made = topology(form(3))
    names = [public_id(node_id(number)).encode() for number in (2, 3)]
    assert [made.count_failure_reports(name, {2: 2}) for name in names] == [b":2\r\n", b":0\r\n"]


def test_the_plain_face_names_the_plain_ports() -> None:
    members = [member(number, alternate=False) for number in (1, 2, 3)]
    ring = first_ring(CLUSTER, seed=1, replicas=3, members=members)
    assert {line[1].split("@")[0] for line in node_lines(topology(ring, face="plain"))} == {
        "10.0.0.1:7001", "10.0.0.2:7002", "10.0.0.3:7003",
    }  # fmt: skip
    with pytest.raises(AssertionError):
        Topology(ring, Placement(ring), states={}, me=1)


def test_a_ring_and_the_tables_of_another_epoch_are_refused() -> None:
    ring = form(3)
    with pytest.raises(AssertionError):
        Topology(replace(ring, epoch=2), Placement(ring), states={}, me=1)


def test_long_answers_are_made_once() -> None:
    made = topology(form(10))
    assert made.slots() is made.slots() and made.shards() is made.shards()
    assert encode(made.slots(), 2) is encode(made.slots(), 2)
    assert encode(made.slots(), 3) != encode(made.slots(), 2)


def test_figures_and_name() -> None:
    made = topology(form(3), {2: "dead"})
    figures = made.stats()
    assert figures["members_alive"] == 2 and figures["members_dead"] == 1 and figures["members_suspect"] == 0
    assert figures["slots_ok"] == SLOT_COUNT and figures["ranges"] == len(made.ranges) and figures["epoch"] == 1
    assert repr(made).startswith("Topology(epoch=1, states={1: 'alive', ")


def test_a_hole_in_the_ranges_is_found() -> None:
    made = topology(form(3))
    spoiled = Topology.__new__(Topology)
    for name in Topology.__slots__:
        setattr(spoiled, name, getattr(made, name))
    spoiled.ranges = (OwnedRange(0, 4, made.ranges[0].owners), *made.ranges[1:])  # type: ignore[misc]
    with pytest.raises(AssertionError):
        spoiled.check_invariants()
