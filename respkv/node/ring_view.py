"""What commands see of a node's ring (``commands.session.RingPort``): of the parts that ``RingNode`` puts together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from respkv.cluster.membership import Membership
from respkv.cluster.placement import Placement
from respkv.cluster.ring import Ring
from respkv.cluster.topology import Topology
from respkv.node.ring_figures import peers_of, summary_of

if TYPE_CHECKING:
    from respkv.node.back_pressure import BackPressure
    from respkv.node.burials import Burials
    from respkv.node.clock_alarm import ClockAlarm
    from respkv.node.forwards import Forwards
    from respkv.node.mend import Mend
    from respkv.node.mesh import Mesh
    from respkv.node.node import Node
    from respkv.node.repair import Repair
    from respkv.node.ring_member import RingMember
    from respkv.node.ring_pubsub import RingPubSub
    from respkv.node.ring_settings import RingSettings
    from respkv.node.stand_in_side import StandInSide
    from respkv.replication.coordinator import Coordinator
    from respkv.replication.replica import Replica


class RingView:
    """The base of ``RingNode``."""

    node: Node
    settings: RingSettings
    mesh: Mesh
    member: RingMember
    coordinator: Coordinator
    replica: Replica
    repair: Repair
    mend: Mend
    burials: Burials
    forwards: Forwards
    pressure: BackPressure
    pubsub: RingPubSub
    stand_in: StandInSide
    clock_alarm: ClockAlarm
    _waiting: int

    @property
    def me(self) -> int:
        """This node's short id, 0 while the ring is being formed."""
        return self.member.me

    @property
    def ring(self) -> Ring | None:
        """The decided ring."""
        return self.member.ring

    @property
    def placement(self) -> Placement | None:
        """Slot -> replicas."""
        return self.member.placement

    @property
    def topology(self) -> Topology | None:
        """The ring as clients see it."""
        return self.member.topology

    @property
    def membership(self) -> Membership | None:
        """Who is alive."""
        return self.member.membership

    def status(self) -> str:
        """One line for people."""
        return self.member.status()

    def stats(self) -> dict[str, int]:
        """Everything that is counted about the ring."""
        return {
            **self.member.stats(),
            **{f"mesh_{name}": value for name, value in self.mesh.stats().items()},
            **self.coordinator.stats(),
            **self.replica.stats(),
            **self.repair.stats(),
            **self.mend.stats(),
            **self.burials.stats(),
            **self.forwards.stats(),
            **self.pressure.stats(),
            **self.pubsub.stats(),
            **self.stand_in.holding.stats(),
            "messages_waiting_for_blocks": self._waiting,
            "clocks_too_far_ahead": self.clock_alarm.count,
        }

    def peers(self) -> Mapping[int, Mapping[str, int | str]]:
        """What is known of each other member, by short id."""
        return peers_of(self)

    def summary(self) -> dict[str, int]:
        """The figures that a person looks for first."""
        return summary_of(self)

    def brake_us(self) -> int:
        """How long clients that write must wait, for the sake of the slowest member; HOLD_US: until it is over."""
        return max(self.node.engine.brake_us(), self.pressure.wait_us(self.node.now_us))

    def live(self, short: int) -> bool:
        """Alive as far as is known, linked, and taking what it is sent."""
        return self.member.live(short) and (short == self.member.me or self.mesh.room(short))

    def is_acting_primary(self, key: bytes) -> bool:
        """Whether this node is the first live replica of a key."""
        return self.placement is not None and self.coordinator.primary(self.placement.slot_of(key)) == self.me

    def speaks_cluster(self, local_address: str, *, unix: bool) -> bool:
        """Whether a connection speaks the cluster face, by the port that it came to."""
        if unix:
            return self.settings.cluster_face("unixsocket")
        alternate = local_address.rpartition(":")[2] == str(self.node.config.value("alternate-port"))
        return self.settings.cluster_face("alternate-port" if alternate else "port")
