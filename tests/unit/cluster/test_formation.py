"""A cluster comes to be: in order, out of order, with crashes at every point, and with nodes that do not belong."""

from __future__ import annotations

import itertools

import pytest

from respkv.base.coding import U16, U64, checksum
from respkv.cluster.formation import (
    CANDIDATE_LIFE_US,
    NO_CLUSTER,
    REASON_MAX,
    SEEDS_MAX,
    Address,
    Formation,
    FormationState,
    Message,
)
from respkv.cluster.ring import BadRing, Ring
from respkv.env.rng import seeded
from respkv.wire.codec import encode
from respkv.wire.messages import Join, Joined, Refused

S = 1_000_000


def join_of(number: int, *, client_port: int = 7000, cluster_enabled: int = 0, alternate_port: int = 0) -> Join:
    """Node ``number`` as it asks. Ids fall while numbers rise, so that their order is no accident."""
    node_id = bytes([200 - number]) * 16
    host = f"10.0.0.{number}"
    return Join(node_id, NO_CLUSTER, host, client_port, alternate_port, cluster_enabled, host, 17000)


def address(number: int) -> Address:
    return f"10.0.0.{number}", 17000


class World:
    """Formations by number, joined by a net that delivers at once; disks that outlive their nodes."""

    def __init__(self, count: int, seeds: dict[int, list[int]] | None = None) -> None:
        self.count = count
        self.seeds = seeds or {number: [1] for number in range(2, count + 1)}
        self.now_us = 0
        self.nodes: dict[int, Formation] = {}
        self.disks: dict[int, bytes] = {}
        self.links: dict[int, int] = {}
        self.log: list[tuple[int, int, Message]] = []

    def start(self, number: int, *, bootstrap: bool | None = None) -> Formation:
        boot = number == 1 if bootstrap is None else bootstrap
        self.nodes[number] = Formation(
            join_of(number),
            rng=seeded(number),
            cluster_size=self.count if boot else 0,
            seeds=[address(seed) for seed in self.seeds.get(number, [])],
            saved=self.disks.get(number),
        )
        return self.nodes[number]

    def step(self, number: int, *, save: bool = True) -> None:
        """Make durable what is to be, then deliver what the node says; answers are handled as they come."""
        node = self.nodes[number]
        node.check_invariants()
        if save and node.to_save is not None:
            self.disks[number] = node.to_save
            node.saved(node.to_save)
            node.check_invariants()
        for destination, message in node.take_outbox():
            if isinstance(destination, int):
                other, source = destination, address(number)
                self.log.append((number, other, message))
                if other in self.nodes:
                    self.nodes[other].on_message(source, message, self.now_us)
                    self.step(other, save=save)
                continue
            other = next(n for n in range(1, 100) if address(n) == destination)
            self.log.append((number, other, message))
            if other in self.nodes:
                self.nodes[other].on_message(number, message, self.now_us)
                self.step(other, save=save)

    def second(self, *, save: bool = True) -> None:
        self.now_us += S
        for number in sorted(self.nodes):
            self.nodes[number].on_timer(self.now_us)
            self.step(number, save=save)

    def rings(self) -> list[Ring | None]:
        return [node.ring for _, node in sorted(self.nodes.items())]


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_three_nodes_in_any_order(order: tuple[int, ...]) -> None:
    world = World(3)
    for number in order:
        assert world.disks.keys() <= {1}
        world.start(number)
        world.second()
    world.second()
    first, second, third = world.rings()
    assert first is not None and first == second == third
    assert first.epoch == 1 and len(first.members) == 3 and len(first.voters) == 3
    # The bootstrap node is 1, joiners follow in the order of their ids: 3 has the smaller one.
    shorts = {member.client_host: member.short for member in first.members}
    assert shorts == {"10.0.0.1": 1, "10.0.0.3": 2, "10.0.0.2": 3}
    assert [node.stats()["formed"] for node in world.nodes.values()] == [1, 1, 1]
    asked = len(world.log)
    world.second()
    assert len(world.log) == asked


def test_a_cluster_of_one() -> None:
    world = World(1)
    world.start(1)
    assert world.rings() == [None]
    world.second()
    (ring,) = world.rings()
    assert ring is not None and len(ring.members) == 1


def test_a_cluster_of_seven_has_five_voters() -> None:
    world = World(7)
    for number in range(1, 8):
        world.start(number)
    world.second()
    world.second()
    ring = world.rings()[0]
    assert ring is not None and world.rings() == [ring] * 7
    assert len(ring.voters) == 5
    assert [ring.by_id(voter).short for voter in ring.voters] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]


def test_joiners_wait_for_ever() -> None:
    world = World(3)
    world.start(2)
    world.start(3)
    for _ in range(100):
        world.second()
    assert world.rings() == [None, None]
    assert world.disks == {}
    assert world.nodes[2].status() == "asking 10.0.0.1:17000"
    assert world.nodes[2].stats()["asked"] == 100
    assert Formation(join_of(9), rng=seeded(9)).status() == "asking nobody: no seed is known"


def test_the_bootstrap_node_says_what_it_waits_for() -> None:
    world = World(3)
    world.start(1)
    world.start(2)
    world.second()
    world.second()
    assert world.nodes[1].status() == "waiting for 1 more of 3 nodes"
    assert world.nodes[2].status() == "asking 10.0.0.1:17000 (10.0.0.1:17000: waiting for 1 more of 3 nodes)"
    world.start(3)
    world.second()
    assert world.nodes[1].status().startswith("member of cluster ")
    assert repr(world.nodes[3]).startswith("Formation('member of cluster ")


def test_nothing_is_told_before_it_is_durable() -> None:
    world = World(2)
    world.start(1)
    world.start(2)
    world.second(save=False)
    # Not even the cluster id: one that was made up again after a crash would leave pinned joiners behind.
    assert [message for _, _, message in world.log if not isinstance(message, Join)] == []
    world.step(1)
    world.second(save=False)
    assert world.nodes[1].status() == "saving the ring"
    assert [message for _, _, message in world.log if isinstance(message, Joined)] == []
    assert world.rings() == [None, None]
    world.step(1)
    assert world.rings()[0] is not None and world.rings()[1] == world.rings()[0]


@pytest.mark.parametrize("crash", ["before", "after"])
def test_the_bootstrap_node_crashes_around_the_decision(crash: str) -> None:
    world = World(3)
    for number in (1, 2, 3):
        world.start(number)
    world.step(1)
    cluster_id = FormationState.decode(world.disks[1]).cluster_id
    world.now_us += S
    for number in (2, 3):
        world.nodes[number].on_timer(world.now_us)
        world.step(number, save=False)
    decided = world.nodes[1].to_save
    assert decided is not None
    if crash == "after":
        world.disks[1] = decided
    world.start(1)
    world.second()
    world.second()
    first, second, third = world.rings()
    assert first is not None and first == second == third
    assert first.cluster_id == cluster_id
    if crash == "after":
        assert FormationState.decode(decided).ring == first


@pytest.mark.parametrize("kept", [False, True])
def test_a_joiner_crashes_around_saving(kept: bool) -> None:
    world = World(2)
    world.start(1)
    world.start(2)
    world.second()
    if not kept:
        del world.disks[2]
    asked = len(world.log)
    world.start(2)
    world.second()
    assert world.rings()[0] is not None and world.rings()[0] == world.rings()[1]
    assert (len(world.log) == asked) == kept


def test_all_crash_and_find_their_ring() -> None:
    world = World(3)
    for number in (1, 2, 3):
        world.start(number)
    world.second()
    world.second()
    ring = world.rings()[0]
    for number in (1, 2, 3):
        # A bootstrap node that has its ring is a member like others, whatever its command line says.
        world.start(number, bootstrap=number != 1)
    assert world.rings() == [ring] * 3


def test_a_late_node_is_refused() -> None:
    world = World(2, seeds={2: [1], 3: [2]})
    for number in (1, 2):
        world.start(number)
    world.second()
    late = world.start(3)
    world.second()
    assert late.refused == "10.0.0.2:17000: the cluster is complete: its ring was decided with 2 nodes"
    assert late.status().startswith("refused: ")
    asked = len(world.log)
    world.second()
    assert len(world.log) == asked and late.ring is None


def test_seeds_may_be_other_joiners() -> None:
    world = World(4, seeds={2: [1], 3: [2], 4: [3]})
    for number in (4, 3, 2, 1):
        world.start(number)
    for _ in range(4):
        world.second()
    assert world.rings()[0] is not None and world.rings() == [world.rings()[0]] * 4
    assert world.nodes[4].stats()["seeds"] == 3


def test_seeds_are_bounded_and_not_oneself() -> None:
    node = Formation(join_of(1), rng=seeded(1), seeds=[address(1), address(2), address(2), ("h", 0)])
    assert node.stats()["seeds"] == 1
    node.on_message(address(2), Refused("not here", 1, NO_CLUSTER, tuple(address(n) for n in range(3, 90))), S)
    assert node.stats()["seeds"] == SEEDS_MAX
    node.check_invariants()


def test_two_bootstrap_nodes_do_not_count_the_same_joiner() -> None:
    world = World(3, seeds={3: [1, 2], 4: [1, 2]})
    world.start(1)
    world.start(2, bootstrap=True)
    for number in (1, 2):
        world.step(number)
    world.start(3)
    world.second()
    assert world.nodes[3].problem.startswith("two clusters are being formed: 10.0.0.2:17000")
    assert [world.nodes[n].stats()["candidates"] for n in (1, 2)] == [1, 0]
    world.start(4)
    world.second()
    assert world.nodes[1].ring == world.nodes[3].ring == world.nodes[4].ring != world.nodes[2].ring
    assert world.nodes[2].ring is None


def test_a_bootstrap_node_started_anew_is_followed() -> None:
    world = World(2)
    world.start(1)
    world.step(1)
    joiner = world.start(2)
    joiner.on_message(address(1), Refused("waiting", 1, b"o" * 16, ()), 0)
    joiner.take_outbox()
    world.second()
    world.second()
    assert joiner.ring is not None and joiner.ring == world.nodes[1].ring


def test_a_joiner_pinned_elsewhere_is_not_given_this_ring() -> None:
    world = World(2)
    world.start(1)
    world.start(2)
    world.second()
    world.nodes[1].on_message(7, join_of(2)._replace(cluster_id=b"o" * 16), world.now_us)
    ((_, answer),) = world.nodes[1].take_outbox()
    assert isinstance(answer, Refused) and answer.retry and answer.reason == "this node belongs to another cluster"


def test_a_ghost_is_not_counted() -> None:
    world = World(3)
    world.start(1)
    world.start(2)
    world.second()
    assert world.nodes[1].stats()["candidates"] == 1
    del world.nodes[2]
    world.now_us += CANDIDATE_LIFE_US
    world.second()
    assert world.nodes[1].stats()["candidates"] == 0


def test_the_same_place_under_a_new_name_counts_once() -> None:
    boot = Formation(join_of(1), rng=seeded(1), cluster_size=4)
    assert boot.to_save is not None
    cluster_id = FormationState.decode(boot.to_save).cluster_id
    boot.saved(boot.to_save)
    boot.on_message(5, join_of(2), S)
    ((_, told),) = boot.take_outbox()
    assert isinstance(told, Refused) and told.cluster_id == cluster_id
    for node_id in (b"a" * 16, b"b" * 16, b"a" * 16):
        boot.on_message(5, join_of(2)._replace(node_id=node_id, cluster_id=cluster_id), S)
        boot.check_invariants()
        assert boot.stats()["candidates"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"alternate_port": 7100}, "some members have a cluster face"),
        ({"cluster_enabled": 1}, "some members have a cluster face"),
        ({"client_port": 0}, "a client port is 1 to 65535"),
        ({"node_host": "10.0.0.1", "node_port": 17000}, "two members announce the same address"),
        ({"node_host": ""}, "a host is 1 to 255 characters"),
        ({"client_host": "a b"}, "bad host"),
    ],
)
def test_a_joiner_that_cannot_be_a_member_is_refused(change: dict[str, object], reason: str) -> None:
    boot = Formation(join_of(1), rng=seeded(1), cluster_size=2)
    assert boot.to_save is not None
    cluster_id = FormationState.decode(boot.to_save).cluster_id
    boot.saved(boot.to_save)
    boot.on_message(5, join_of(2)._replace(cluster_id=cluster_id, **change), S)  # type: ignore[arg-type]
    ((_, answer),) = boot.take_outbox()
    assert isinstance(answer, Refused) and not answer.retry and answer.reason.startswith(reason)
    assert reason in boot.status() and boot.ring is None and boot.stats()["candidates"] == 0
    # The place is free for one that fits.
    boot.on_message(6, join_of(2)._replace(cluster_id=cluster_id), S)
    assert boot.to_save is not None and FormationState.decode(boot.to_save).ring is not None


def test_a_member_without_its_ring_is_not_taken_back_once_seen() -> None:
    world = World(2)
    world.start(1)
    world.start(2)
    world.second()
    boot = world.nodes[1]
    boot.member_seen(join_of(2).node_id)
    boot.member_seen(join_of(2).node_id)
    boot.member_seen(join_of(1).node_id)
    boot.member_seen(b"stranger" * 2)
    assert boot.stats()["members_seen"] == 1
    world.step(1)
    world.start(1)
    del world.disks[2]
    again = world.start(2)
    world.second()
    assert again.refused is not None and "it is not taken in without data" in again.refused


def test_a_save_overtaken_by_another() -> None:
    world = World(3)
    for number in (1, 2, 3):
        world.start(number)
    world.second()
    world.second()
    boot = world.nodes[1]
    boot.member_seen(join_of(2).node_id)
    first = boot.to_save
    assert first is not None
    boot.member_seen(join_of(3).node_id)
    boot.saved(first)
    boot.check_invariants()
    assert boot.to_save is not None and len(FormationState.decode(boot.to_save).seen) == 2
    boot.saved(boot.to_save)
    assert boot.to_save is None


def test_answers_of_strangers_and_damaged_rings_change_nothing() -> None:
    node = Formation(join_of(2), rng=seeded(2), seeds=[address(1), address(3)])
    good = _ring_of(1, 2)
    for source in (4, address(9)):
        node.on_message(source, Joined(good.encode()), S)
        node.on_message(source, Refused("go away", 0, NO_CLUSTER, ()), S)
    node.on_message(4, join_of(2), S)
    assert node.to_save is None and node.refused is None and node.problem == "" and node.outbox == []
    node.on_message(address(1), Joined(b"RKVRNG garbage"), S)
    assert "sent no ring" in node.problem
    node.on_message(address(1), Joined(_ring_of(1, 3).encode()), S)
    assert "without this node" in node.problem
    node.on_message(address(3), Refused("waiting", 1, b"o" * 16, ()), S)
    node.on_message(address(1), Joined(good.encode()), S)
    assert "not the one joined first" in node.problem
    assert node.to_save is None and node.ring is None


def test_a_member_hears_no_answers() -> None:
    world = World(2)
    world.start(1)
    joiner = world.start(2)
    world.second()
    ring = joiner.ring
    joiner.on_message(address(1), Refused("late", 0, NO_CLUSTER, ()), S)
    joiner.on_message(address(1), Joined(_ring_of(1, 2).encode()), S)
    assert joiner.refused is None and joiner.ring == ring and joiner.to_save is None


def test_addresses_that_changed_are_noticed() -> None:
    world = World(1)
    node = world.start(1)
    assert node.address_problem() is None
    world.second()
    assert node.address_problem() is None
    moved = Formation(join_of(1, client_port=7009), rng=seeded(1), saved=world.disks[1])
    assert moved.address_problem() == (
        "the ring knows this node as 10.0.0.1:7000 (plain), nodes at 10.0.0.1:17000, the configuration says"
        " 10.0.0.1:7009 (plain), nodes at 10.0.0.1:17000; addresses cannot change after the cluster has formed"
    )
    both = Formation(join_of(1, cluster_enabled=1, alternate_port=7100), rng=seeded(1), saved=world.disks[1])
    assert "10.0.0.1:7000 (cluster) and 7100" in str(both.address_problem())


def test_state_round_trip_and_damage() -> None:
    for state in (
        FormationState(b"c" * 16, 7),
        FormationState(b"c" * 16, (1 << 64) - 1, _ring_of(1, 2), (b"a" * 16, b"b" * 16)),
    ):
        data = state.encode()
        assert FormationState.decode(data) == state
        for end in range(len(data)):
            with pytest.raises(BadRing):
                FormationState.decode(data[:end])
        for at in range(len(data)):
            with pytest.raises(BadRing):
                FormationState.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_sums_that_are_right_over_nonsense() -> None:
    body = FormationState(b"c" * 16, 7).encode()[:-8]
    for nonsense in (
        body[:6] + U16.pack(2) + body[8:],
        body + b"x",
        body[:-2] + U16.pack(1),
        body[:32] + b"\xff\xff\x00\x00" + body[36:],
    ):
        with pytest.raises(BadRing):
            FormationState.decode(nonsense + U64.pack(checksum(nonsense)))


def test_what_a_node_cannot_start_with() -> None:
    saved = FormationState(b"c" * 16, 7, _ring_of(1, 2)).encode()
    with pytest.raises(BadRing, match="does not know this node"):
        Formation(join_of(3), rng=seeded(1), saved=saved)
    with pytest.raises(BadRing, match="a cluster has"):
        Formation(join_of(1), rng=seeded(1), cluster_size=100_000)
    with pytest.raises(BadRing, match="replicas"):
        Formation(join_of(1), rng=seeded(1), cluster_size=1, replicas=0)
    with pytest.raises(BadRing, match="client port"):
        Formation(join_of(1, client_port=0), rng=seeded(1))


def test_reasons_are_bounded() -> None:
    boot = Formation(join_of(1), rng=seeded(1), cluster_size=3)
    assert boot.to_save is not None
    boot.saved(boot.to_save)
    boot.problem = "\u20ac" * 5000
    boot.on_message(3, join_of(2), S)
    ((_, answer),) = boot.take_outbox()
    assert isinstance(answer, Refused) and len(answer.reason) == REASON_MAX and answer.reason.isascii()
    encode(answer)


def _ring_of(*numbers: int) -> Ring:
    """A ring of these nodes, formed by themselves."""
    world = World(len(numbers), seeds={number: [numbers[0]] for number in numbers[1:]})
    for number in numbers:
        world.start(number, bootstrap=number == numbers[0])
    world.second()
    world.second()
    ring = world.nodes[numbers[0]].ring
    assert ring is not None
    return ring
