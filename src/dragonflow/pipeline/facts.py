"""What an app can want to be true. Facts are values: two that are equal are the same fact."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from dragonflow.pipeline.action import Action
from dragonflow.pipeline.match import Match


class Owner(NamedTuple):
    """Who wants a fact: the app, and the kind and id of the object for which it was rendered."""

    app: str
    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.app}/{self.kind}/{self.id}"


class Flow(msgspec.Struct, frozen=True):
    """A flow entry. (table, priority, match) names it: two owners may not claim one name with different contents."""

    table: int
    priority: int
    match: Match
    actions: tuple[Action, ...] = ()
    goto: int | None = None


class Bucket(msgspec.Struct, frozen=True):
    """One bucket of an ``all`` group. The ledger folds the buckets of all owners into the group; several owners may contribute
    the same bucket (same ``id``, same actions), which then stands until the last of them is gone. ``id`` is at most 2^31."""

    group: int
    id: int
    actions: tuple[Action, ...]


class Clause(msgspec.Struct, frozen=True):
    """What matches fulfils dimension ``dimension`` (1 … ``dimensions``) of a conjunction (ovs-fields(7), "Conjunctive Match").

    Several owners may lay clauses on one match; its flow holds them all, and no other flow may have that match. What becomes of
    packets that fulfil all dimensions says a flow of the same table and priority that matches ``conj_id``.
    """

    table: int
    priority: int
    match: Match
    conjunction: int
    dimension: int
    dimensions: int

    def __post_init__(self) -> None:
        if not 2 <= self.dimensions <= _DIMENSIONS or not 1 <= self.dimension <= self.dimensions:
            raise ValueError(f"dimension {self.dimension} of {self.dimensions}: Open vSwitch has 2 … {_DIMENSIONS}")


_DIMENSIONS = 64


class Group(msgspec.Struct, frozen=True):
    """A group of type ``all``: a copy of the packet to each bucket. It stands while an owner wants it, even without buckets."""

    id: int


class Meter(msgspec.Struct, frozen=True):
    """Drops what exceeds ``rate`` packets a second, after a burst of ``burst`` packets; or, with ``bits``, kilobits."""

    id: int
    rate: int
    burst: int
    bits: bool = False


ALL_PUNTED = 0xFFFFFFFE
"""The id of the one meter that Open vSwitch applies by itself, to each packet that goes to a controller (OFPM_CONTROLLER)."""


class TunnelPort(msgspec.Struct, frozen=True):
    """A tunnel interface on the integration bridge that is flow-based: flows say where packets go, and with which VNI."""

    name: str
    type: str
    local: str


class PeerPort(msgspec.Struct, frozen=True):
    """A tunnel interface on the integration bridge to one other chassis, with a BFD session with it (RFC 5880).

    Flows may send by it, with the VNI that they say. By it comes only what has VNI 0, which no network has: BFD. What networks
    get from the same chassis comes by the ``TunnelPort``, as if this one weren't there.
    """

    name: str
    type: str
    local: str
    remote: str
    ipsec: Literal["psk", "certificates"] | None = None
    """How all that goes by it is encrypted (Open vSwitch's IPsec how-to); None: not at all."""


class PatchPort(msgspec.Struct, frozen=True):
    """A way from the integration bridge to ``bridge`` and back, by a pair of patch ports: ``name`` here, ``peer`` there.

    The bridge is somebody else's. While it isn't there, neither is the pair.
    """

    name: str
    peer: str
    bridge: str


class InternalPort(msgspec.Struct, frozen=True):
    """An interface of the host itself on the integration bridge (Open vSwitch's type "internal")."""

    name: str


class Local(msgspec.Struct, frozen=True, omit_defaults=True):
    """The port is handled on this chassis alone, at this OpenFlow port; with ``vlan`` in frames that bear this tag."""

    ofport: int
    vlan: int | None = None


class Remote(msgspec.Struct, frozen=True):
    """The port is on one other chassis, behind OpenFlow port ``ofport``.

    ``address`` is that chassis's VTEP if the way there is a tunnel, None if it is a physical network.
    """

    chassis: str
    ofport: int
    address: str | None = None


class Distributed(msgspec.Struct, frozen=True):
    """Every chassis handles the port itself."""


Locality = Local | Remote | Distributed


class Place(msgspec.Struct, frozen=True):
    """Where a logical port is, as seen from this chassis. Exactly one app places each kind of port."""

    port: str
    locality: Locality


class Serve(msgspec.Struct, frozen=True):
    """This chassis speaks for the port, and no other should: by its word the port is ACTIVE. To the switch it means nothing.

    On a physical network it answers for the port's addresses and gets their packets. When it begins to, it says so there
    (``controller.announce``). An external network's id stands for the chassis's own address there.
    """

    port: str


class Trouble(msgspec.Struct, frozen=True):
    """Something about the object that an operator should know. It changes nothing on the switch; the engine reports it."""

    reason: str


Fact = (
    Flow | Clause | Group | Bucket | Meter | TunnelPort | PeerPort | InternalPort | PatchPort | Place | Serve | Trouble
)
