"""What a controller finds out on its own host: the other half of its world, beside the DF DB, and never stored there."""

from __future__ import annotations

from typing import Literal

import msgspec


class OvsPort(msgspec.Struct, frozen=True, kw_only=True):
    """An interface on the integration bridge. ``id`` is its name; ``ofport`` is None until OVS has given one.

    ``iface_id`` is ``external_ids:iface-id`` (the Neutron port, see os-vif and OVS's IntegrationGuide), ``tunnel`` the
    fact (of a tunnel port or an internal port) whose port this is (``external_ids:df-tunnel``), ``patch`` the bridge to which a
    patch port of ours leads (``external_ids:df-patch``), ``error`` what OVS complains of.

    ``bfd`` is what the interface's BFD session says of the other end: None while there is none or it has not come up yet, "up",
    or "down" once it was up and is no more.
    """

    id: str
    ofport: int | None
    iface_id: str | None = None
    attached_mac: str | None = None
    tunnel: str | None = None
    patch: str | None = None
    error: str | None = None
    bfd: Literal["up", "down"] | None = None


class Ipsec(msgspec.Struct, frozen=True, kw_only=True):
    """Whether Open vSwitch on this host encrypts tunnels for which that is wanted; ``trouble`` says why not.

    There is one, and none before the host was looked at.
    """

    id: str = "ipsec"
    trouble: str | None = None


EVERY_PORT = "*"


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody on this host wants to see what is refused to a port, and from it. ``id`` is the port's, or ``EVERY_PORT``."""

    id: str


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody in an external network of whom the DF DB knows nothing, above all its gateway; found by ARP or ND.

    ``id`` is ``network/address``. ``network`` is the network's id, ``mac`` what the last answer said.
    """

    id: str
    network: str
    address: str
    mac: str
