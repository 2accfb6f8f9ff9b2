"""A node of a ring: formation, restarts, refusals, the dead, and that nothing is told before it is durable."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from respkv.base.errors import StorageFull
from respkv.cluster.membership import ALIVE, DEAD, SUSPECT
from respkv.config.store import ConfigStore
from respkv.env.rng import seeded
from respkv.node.mesh import Mesh
from respkv.node.ring_member import (
    RingMember,
    claim_directory,
    decode_incarnation,
    encode_incarnation,
)
from respkv.node.ring_settings import CLUSTER_FILE, INCARNATION_FILE, RingProblem
from respkv.storage.wal import FatalStorageError
from respkv.testing.disk import PowerLoss
from respkv.wire.messages import Facts, Join, Joined, Ping, Reads, Refused, RingPull, RingPush
from tests.unit.node.ring_rig import DIRECTORY, S, World, address, join_of, new_disk, node_id_of

#: xxh3_64 of the first two lines, as other programs must compute it.
SUM_OF_5 = 0xc67bf240ffbe609f
CLUSTER_PATH = f"{DIRECTORY}/{CLUSTER_FILE}"
INCARNATION_PATH = f"{DIRECTORY}/{INCARNATION_FILE}"


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_three_nodes_in_any_order_form_a_ring(order: tuple[int, ...]) -> None:
    world = World(3)
    for number in order:
        world.start(number)
        world.run(0.7)
        if number != order[-1]:
            assert all(node.member.ring is None and not node.member.live(1) for node in world.nodes.values())
    world.run(4)
    members = [world.nodes[number].member for number in (1, 2, 3)]
    ring = members[0].ring
    assert ring is not None and all(member.ring == ring for member in members)
    # The founder is 1, the others follow in the order of their ids.
    assert world.shorts() == {1: 1, 2: 3, 3: 2}
    for node in world.nodes.values():
        member = node.member
        assert node.rings == [ring] and node.mesh.short == member.me
        assert [member.live(short) for short in (1, 2, 3)] == [True] * 3 and not member.live(4)
        assert sorted(short for kind, short, live in node.events if kind == "live" and live) == sorted(
            {1, 2, 3} - {member.me}
        )
        assert member.stats()["members_live"] == 3 and member.stats()["formed"] == 1
        assert not node.logged("suspect") and node.logged("member of cluster")
    topologies = [member.topology for member in members]
    assert topologies[0] is not None and topologies[1] is not None
    assert topologies[0].ranges == topologies[1].ranges and not topologies[0].is_down()
    assert members[0].topology is topologies[0]


def test_a_ring_of_one() -> None:
    world = World(1)
    node = world.start(1)
    assert node.member.ring is None and node.member.me == 0 and node.member.topology is None
    world.run(0.5)
    assert node.member.me == 1 and node.member.live(1)
    assert node.member.topology is not None and not node.member.topology.is_down()


def test_a_restart_finds_the_ring_in_the_directory() -> None:
    world = World(3).formed()
    before = world.nodes[2].member
    world.kill(2)
    world.run(0.5)
    node = world.start(2, seeds=())
    assert node.member.ring == before.ring and node.member.me == before.me and node.mesh.short == before.me
    assert node.rings == []
    assert node.member.stats()["incarnation"] == before.stats()["incarnation"] + 1
    world.run(3)
    assert node.member.live(1) and world.nodes[1].member.live(before.me)
    assert world.nodes[1].member.stats()["members_alive"] == 3
    # Each life has an incarnation of its own, and the last one is on the disk.
    lives = [member.stats()["incarnation"] for member in (before, node.member)]
    assert lives[0] < lives[1]
    assert decode_incarnation(world.disks[2].read_all(INCARNATION_PATH)) == lives[1]


def test_all_restart_at_once() -> None:
    world = World(3).formed()
    ring = world.nodes[1].member.ring
    for number in (1, 2, 3):
        world.kill(number)
        world.disks[number] = world.disks[number].crash(seeded(number))
    world.run(1)
    for number in (1, 2, 3):
        world.start(number)
    world.run(3)
    for node in world.nodes.values():
        assert node.member.ring == ring and all(node.member.live(short) for short in (1, 2, 3))


def test_a_fourth_is_refused() -> None:
    world = World(3).formed()
    node = world.start(4)
    world.run(2)
    assert node.member.ring is None
    assert node.member.refused is not None and "its ring was decided with 3 nodes" in node.member.refused
    assert node.logged("refused") and node.lines.count(node.lines[-1]) == 1
    assert all(world.nodes[number].member.stats()["members"] == 3 for number in (1, 2, 3))


def test_a_wiped_node_is_refused_under_a_new_id_and_under_its_old_one() -> None:
    world = World(3).formed()
    for node_id, reason in ((b"another id, 16 b", "its ring was decided"), (None, "has lost its ring")):
        if 2 in world.nodes:
            world.kill(2)
        world.disks[2] = new_disk()
        node = world.start(2, node_id=node_id)
        world.run(3)
        assert node.member.ring is None and node.member.refused is not None and reason in node.member.refused
    assert not world.nodes[1].member.live(3)


def test_a_joiner_that_crashed_before_it_had_the_ring_gets_it_again() -> None:
    world = World(3)
    for number in (1, 2, 3):
        world.start(number)
    world.nodes[3].saving = False
    world.run(4)
    assert world.nodes[1].member.ring is not None and world.nodes[3].member.ring is None
    world.kill(3)
    world.disks[3] = world.disks[3].crash(seeded(1))
    world.run(1)
    world.start(3)
    world.run(4)
    assert world.nodes[3].member.ring == world.nodes[1].member.ring
    assert all(world.nodes[1].member.live(short) for short in (2, 3))


def test_the_dead_are_noticed_at_once_and_called_dead_in_time() -> None:
    world = World(3).formed()
    first = world.nodes[1]
    gone = world.nodes[2].member.me
    snapshot = first.member.topology
    assert snapshot is not None
    world.kill(2)
    assert not first.member.live(gone) and first.events[-1] == ("live", gone, False)
    membership = first.member.membership
    assert membership is not None and membership.state(gone) == SUSPECT
    world.run(30)
    assert membership.state(gone) == DEAD
    assert first.logged("is suspect") and first.logged("is dead")
    assert first.member.topology is not snapshot and first.member.topology is not None
    assert first.member.topology.state(gone) == "dead"
    assert {first.member.topology.owner(slot) for slot in range(0, 16384, 64)} == {1, 2, 3} - {gone}
    world.start(2)
    world.run(3)
    assert membership.state(gone) == ALIVE and first.member.live(gone)
    assert first.events[-1] == ("live", gone, True) and first.logged("is alive again")
    # Never both dead and live on the way: the hook says each change once.
    said = [live for kind, short, live in first.events if (kind, short) == ("live", gone)]
    assert all(a != b for a, b in itertools.pairwise(said))


def test_a_member_that_hangs_is_suspected_without_a_lost_link() -> None:
    world = World(3).formed()
    gone = world.nodes.pop(3).member.me
    world.run(4)
    first = world.nodes[1].member
    assert not first.live(gone) and first.membership is not None and first.membership.state(gone) != ALIVE


def test_two_sides_that_meet_again_take_each_other_for_alive_at_once() -> None:
    world = World(4).formed()
    for number, other in ((1, 3), (1, 4), (2, 3), (2, 4)):
        world.part(number, other)
    world.run(40)
    assert all(node.member.stats()["members_dead"] == 2 for node in world.nodes.values())
    assert not world.nodes[1].member.live(world.nodes[3].member.me)
    world.apart.clear()
    for number, other in ((1, 3), (1, 4), (2, 3), (2, 4)):
        world.connect(number, address(other), other)
    world.deliver()
    assert all(node.member.stats()["members_live"] == 4 for node in world.nodes.values())


def test_a_link_that_another_replaces_is_no_accusation() -> None:
    world = World(3).formed()
    world.run(16)
    first, second = world.nodes[1], world.nodes[2]
    events = len(first.events)
    world.connect(2, ("10.0.0.1", 17000), 1)
    assert [event for event in first.events[events:] if event[0] == "link"] == [
        ("link", second.member.me, False),
        ("link", second.member.me, True),
    ]
    assert first.member.live(second.member.me) and not first.logged("suspect")


def test_the_cluster_id_is_not_told_before_it_is_durable() -> None:
    world = World(2)
    founder, joiner = world.start(1), world.start(2)
    founder.saving = False
    world.run(3)
    told = [message for to, _, message in world.said if to == 2 and isinstance(message, Refused)]
    assert all(message.cluster_id == bytes(16) for message in told)
    assert not world.disks[1].exists(CLUSTER_PATH)
    founder.saving = True
    world.run(3)
    assert joiner.member.ring is not None and joiner.member.ring.cluster_id == founder.mesh.cluster_id


def test_the_ring_is_neither_used_nor_told_before_it_is_durable() -> None:
    world = World(2)
    founder = world.start(1)
    world.run(0.5)
    founder.saving = False
    joiner = world.start(2)
    world.run(3)
    assert any(isinstance(message, Join) and message.cluster_id != bytes(16) for _, _, message in world.said)
    assert founder.member.ring is None and founder.mesh.short == 0 and founder.rings == []
    assert not any(isinstance(message, Joined) for _, _, message in world.said)
    joiner.saving = False
    founder.saving = True
    world.run(3)
    assert founder.member.ring is not None and joiner.member.ring is None and joiner.mesh.short == 0
    assert any(to == 2 and isinstance(message, Joined) for to, _, message in world.said)
    joiner.saving = True
    world.run(3)
    assert joiner.member.ring == founder.member.ring and founder.member.live(2)


def test_gossip_waits_for_its_incarnation() -> None:
    world = World(2).formed()
    world.kill(2)
    world.run(1)
    node = world.start(2)
    node.saving = False
    world.said.clear()
    world.run(1)
    assert world.nodes[1].mesh.linked(2)
    assert not any(to == 1 for to, _, _ in world.said)
    node.saving = True
    world.run(0.2)
    assert any(to == 1 and short == 2 and isinstance(message, Ping) for to, short, message in world.said)


def test_a_full_disk_delays_the_ring_and_does_not_silence_gossip() -> None:
    world = World(2)
    world.start(1)
    node = world.start(2)
    disk = world.disks[2]
    disk.capacity = disk.used()
    world.run(4)
    assert node.member.ring is None and node.member.stats()["save_failed"] == 1
    assert sum("trying again each second" in text for _, text in node.lines) == 1
    disk.capacity = None
    world.run(3)
    assert node.member.ring is not None and node.member.stats()["save_failed"] == 0
    world.kill(2)
    world.run(20)
    disk.capacity = disk.used()
    world.start(2)
    world.run(3)
    assert world.nodes[1].member.live(2) and world.nodes[2].member.stats()["save_failed"] == 1


def test_a_save_that_failed_is_tried_again_after_a_second() -> None:
    world = World(1)
    node = world.start(1)
    node.saving = False
    node.member.on_timer(S)
    plan = node.member.save_plan()
    assert plan is not None
    node.member.on_save_failed(plan, StorageFull("full"), S)
    assert node.member.save_plan() is None and node.member.next_timer_us() <= 2 * S
    node.member.on_timer(2 * S - 1)
    assert node.member.save_plan() is None and node.member.next_timer_us() == 2 * S
    node.member.on_timer(2 * S)
    again = node.member.save_plan()
    assert again is not None and again.cluster == plan.cluster


def test_a_disk_that_fails_is_the_end() -> None:
    world = World(1)
    node = world.start(1)
    node.saving = False
    world.run(0.2)
    plan = node.member.save_plan()
    assert plan is not None
    world.disks[1].fail_syncs = lambda path: True
    with pytest.raises(FatalStorageError, match="cannot save the state of the cluster"):
        plan.run()


def test_a_crash_while_saving_leaves_the_old_files_or_the_new() -> None:
    """Power fails at each change on the disk of the founder while the ring is decided."""
    for fuse in range(1, 40):
        world = World(2)
        world.start(1)
        world.start(2)
        world.disks[1].fuse = fuse
        crashed = False
        try:
            world.run(4)
        except PowerLoss:
            crashed = True
        if not crashed:
            assert fuse > 8
            return
        told = [message for to, _, message in world.said if to == 2 and isinstance(message, Joined)]
        world.kill(1)
        world.disks[1] = world.disks[1].crash(seeded(fuse))
        world.run(1)
        world.start(1)
        world.run(4)
        rings = [node.member.ring for node in world.nodes.values()]
        assert rings[0] is not None and rings[0] == rings[1], fuse
        assert all(message.ring == rings[0].encode() for message in told), fuse
    pytest.fail("forming changes the disk without end")


def test_the_directory_is_claimed_before_anything_else() -> None:
    fs = new_disk()
    claim_directory(fs, DIRECTORY)
    assert fs.crash(seeded(1)).listdir(DIRECTORY) == [INCARNATION_FILE]
    fs.write_file(INCARNATION_PATH, encode_incarnation(7))
    claim_directory(fs, DIRECTORY)
    assert decode_incarnation(fs.read_all(INCARNATION_PATH)) == 7


@pytest.mark.parametrize(
    "data", [b"", b"respkv-incarnation 1\nlast 5\n", encode_incarnation(5)[:-1], encode_incarnation(5) + b"\n",
             encode_incarnation(5).replace(b"5", b"6", 1), b"a\nlast x\n", b"a\nlast " + b"9" * 30],
)  # fmt: skip
def test_what_is_no_incarnation(data: bytes) -> None:
    assert decode_incarnation(data) is None
    assert encode_incarnation(5) == b"respkv-incarnation 1\nlast 5\nsum %016x\n" % SUM_OF_5
    assert decode_incarnation(encode_incarnation(1 << 47)) == 1 << 47


def test_a_damaged_incarnation_costs_a_refutation() -> None:
    world = World(2).formed()
    world.run(1)
    lost = world.nodes[2].member.stats()["incarnation"]
    world.kill(2)
    world.run(20)
    world.disks[2].write_file(INCARNATION_PATH, b"scratched")
    node = world.start(2)
    assert node.logged("INCARNATION is damaged")
    world.run(3)
    assert node.member.stats()["incarnation"] > lost and world.nodes[1].member.live(2)


def test_a_damaged_ring_is_the_end() -> None:
    world = World(2).formed()
    world.kill(2)
    world.disks[2].flip(CLUSTER_PATH, 40, 3)
    with pytest.raises(RingProblem, match=r"/data/CLUSTER: cannot be a node of a ring: .*checksum mismatch"):
        world.start(2)


def test_what_contradicts_the_ring_is_refused() -> None:
    world = World(2).formed()
    world.kill(2)
    with pytest.raises(RingProblem, match="does not know this node"):
        world.start(2, node_id=b"another id, 16 b")
    with pytest.raises(RingProblem, match=r"the ring knows this node as 10\.0\.0\.2:7000 .* says 10\.0\.0\.2:7001"):
        world.start(2, port=7001)
    world.size = 5
    world.kill(1)
    node = world.start(1)
    assert node.logged("cluster-size is 5; the ring was decided with 2 nodes and stays so")


def test_a_node_that_cannot_be_a_member_is_refused_at_start() -> None:
    mesh = Mesh(node_id_of(1), secret=b"", rng=seeded(1), log=lambda level, text: None)
    with pytest.raises(RingProblem, match="cannot be a node of a ring: bad host"):
        RingMember(
            join=join_of(1)._replace(client_host="a b"), seeds=(), cluster_size=1, replicas=3, mesh=mesh,
            fs=new_disk(), directory=DIRECTORY, rng=seeded(1), log=lambda level, text: None, now_us=0,
        )  # fmt: skip


def test_a_founder_that_stopped_early_says_how_to_go_on() -> None:
    world = World(2)
    world.start(1)
    world.run(0.5)
    world.kill(1)
    with pytest.raises(RingProblem, match="was founding a cluster when it stopped"):
        world.start(1, bootstrap=False, seeds=())
    cluster_id = world.start(1).member._formation._state.cluster_id  # type: ignore[union-attr]
    world.start(2)
    world.run(3)
    ring = world.nodes[2].member.ring
    assert ring is not None and ring.cluster_id == cluster_id


def test_a_ring_is_given_to_who_has_an_older_one_and_none_is_taken() -> None:
    world = World(2).formed()
    first, second = world.nodes[1], world.nodes[2]
    ring = first.member.ring
    assert ring is not None
    link = next(link for number, link in world.ends if number == 1)
    world.said.clear()
    first.member.on_message(2, link, RingPull(0), world.now_us)
    first.member.on_message(2, link, RingPull(1), world.now_us)
    world.deliver()
    assert [message for to, _, message in world.said if to == 2] == [RingPush(ring.encode())]
    assert not second.logged("ring of epoch")
    later = replace(ring, epoch=2)
    second.member.on_message(1, 0, RingPush(later.encode()), world.now_us)
    assert second.logged("Member 1 has a ring of epoch 2, this node one of epoch 1") and second.member.ring == ring
    second.member.on_message(1, 0, RingPush(b"x"), world.now_us)
    assert second.logged("a ring that cannot be used")


def test_a_later_ring_is_asked_for_now_and_then() -> None:
    world = World(2).formed()
    first = world.nodes[1].member
    world.said.clear()
    for _ in range(3):
        first.on_message(2, 0, Ping(0, (), Facts(ring_epoch=9, clock=1 << 60)), world.now_us)
    world.deliver()
    assert sum(isinstance(message, RingPull) for _, _, message in world.said) == 1
    assert first.peer_facts[2].ring_epoch == 9


def test_facts_travel() -> None:
    world = World(2).formed()
    world.nodes[1].member.facts = lambda: Facts(clock=1 << 50, load_permille=77)
    world.run(2)
    assert world.nodes[2].member.peer_facts[1] == Facts(ring_epoch=1, clock=1 << 50, load_permille=77)


def test_only_members_are_heard() -> None:
    world = World(2).formed()
    node = world.nodes[1]
    before = node.member.stats()
    node.member.on_message(0, 999, Ping(1, ((2, DEAD, 99, 2),), Facts()), world.now_us)
    assert node.member.stats() == before and node.member.live(2)
    assert not node.member.owns(Reads(1, [], []))


def test_the_topology_follows_its_directives() -> None:
    world = World(3).formed()
    member = world.nodes[1].member
    config = ConfigStore()
    member.follow(config)
    before = member.topology
    assert before is not None and not before.announce_replicas
    config.set([(b"cluster-announce-replicas", b"yes")])
    assert member.topology is not None and member.topology is not before and member.topology.announce_replicas
    for number in (2, 3):
        world.kill(number)
    world.run(40)
    assert member.topology is not None and member.topology.is_down()


def test_hooks_before_there_is_a_ring_do_nothing() -> None:
    world = World(2)
    member = world.start(2).member
    member.on_link(1, True, S)
    member.heard(1, S)
    member.unanswered(1, S)
    member.loop_lag(S, S)
    assert member.peer_facts == {} and member.membership is None and "asking" in member.status()
    assert member.next_timer_us() > 0


def test_a_standstill_of_this_node_accuses_nobody() -> None:
    world = World(3).formed()
    member = world.nodes[1].member
    world.now_us += 20 * S
    member.loop_lag(20 * S, world.now_us)
    world.run(5)
    assert all(node.member.live(short) for node in world.nodes.values() for short in (1, 2, 3))
    assert not world.nodes[1].logged("is dead")
