"""The only window through which apps see the world. It records every read, so the engine knows what each rendering rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import msgspec

from dragonflow.controller.replica import INDICES, Change, Replica
from dragonflow.model import (
    BridgeMapping,
    Chassis,
    Derived,
    Ipsec,
    LogicalPort,
    Neighbour,
    OvsPort,
    Row,
    Watched,
)
from dragonflow.pipeline.facts import Locality

M = TypeVar("M", bound="Row | OvsPort | Ipsec | Watched | Neighbour | Derived")


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """This chassis, the same for the whole life of the process. Apps render it like a row, for flows that rest on no row."""

    chassis: str
    tunnel_ip: str
    tunnel_types: tuple[str, ...] = ("geneve",)
    bridge_mappings: tuple[BridgeMapping, ...] = ()
    snat_addresses: tuple[str, ...] = ()
    dhcp_lease_time: int = 86400
    dhcp_dns_servers: tuple[str, ...] = ()
    metadata: bool = False
    permitted_ethertypes: tuple[int, ...] = ()
    """What ports with port security may send and get besides IP and ARP."""

    region_ipsec: Literal["psk", "certificates"] | None = None
    """How tunnels to other regions are encrypted; None: they aren't."""

    @classmethod
    def of(cls, chassis: Chassis, **settings: Any) -> Me:
        """A chassis as its own row describes it; ``settings`` are what the row doesn't tell."""
        return cls(
            chassis=chassis.id,
            tunnel_ip=chassis.tunnel_ip,
            tunnel_types=chassis.tunnel_types,
            bridge_mappings=chassis.bridge_mappings,
            snat_addresses=chassis.snat_addresses,
            **settings,
        )

    @property
    def id(self) -> str:
        """The chassis's name."""
        return self.chassis


Read = tuple[Any, ...]
"""What a rendering rests on: ``(model, id)``, ``(model, field, value)`` for an index, ``("locality", port)``, ``OWN_PLACE``, or
``(model,)`` for all of a kind."""

_LOCALITY = "locality"

OWN_PLACE: Read = (_LOCALITY,)
"""The place of the very port that is being rendered: the same words for each port, so that alike renderings can share them."""


def locality_read(port: str) -> Read:
    """The read of a port's place."""
    return (_LOCALITY, port)


def touched_reads(change: Change) -> list[Read]:
    """The reads whose answer differs because of the change."""
    reads: list[Read] = [(change.model, change.id), (change.model,)]
    for field in INDICES.get(change.model, ()):
        values = {getattr(side, field) for side in (change.old, change.new) if side is not None}
        reads += [(change.model, field, value) for value in values if value is not None]
    return reads


class View:
    """Read-only; a miss and an empty index are answers that can change, and are recorded like any other."""

    def __init__(
        self, replica: Replica, places: Mapping[str, Locality], me: Me, serving: frozenset[str] = frozenset()
    ) -> None:
        self.me = me
        self.serving = serving
        """The ports that this chassis serves (``Serve``). For handlers of packets: to apps that render it is empty."""
        self._replica = replica
        self._places = places
        self._reads: dict[Read, None] = {}
        self._subject: str | None = None

    def begin(self, model: type[Any], id: str) -> None:
        """A rendering of this object begins: forget what was read before."""
        self._reads = {}
        self._subject = id if model is LogicalPort else None

    def get(self, model: type[M], id: str) -> M | None:
        """The object, or None."""
        self._reads[model, id] = None
        return self._replica.get(model, id)

    def where(self, model: type[M], **condition: str | int) -> tuple[M, ...]:
        """The objects whose indexed field has the given value, ordered by id: ``view.where(OvsPort, iface_id=port.id)``.

        Whoever reads this renders again whenever any of them changes: ask for small sets only.
        """
        ((field, value),) = condition.items()
        self._reads[model, field, value] = None
        return self._replica.where(model, **condition)

    def all(self, model: type[M]) -> tuple[M, ...]:
        """All objects of a kind, ordered by id; the same warning holds."""
        self._reads[model,] = None
        return self._replica.all(model)

    def locality(self, port: str) -> Locality | None:
        """Where an app has placed the port, or None."""
        self._reads[OWN_PLACE if port == self._subject else (_LOCALITY, port)] = None
        return self._places.get(port)

    @property
    def reads(self) -> tuple[Read, ...]:
        """What the rendering has read, each once."""
        return tuple(self._reads)
