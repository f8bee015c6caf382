"""What Open vSwitch says of itself: the other half of a controller's world, read from OVSDB and never stored."""

from __future__ import annotations

import msgspec


class OvsPort(msgspec.Struct, frozen=True, kw_only=True):
    """An interface on the integration bridge. ``id`` is its name; ``ofport`` is None until OVS has given one.

    ``iface_id`` is ``external_ids:iface-id`` (the Neutron port, see os-vif and OVS's IntegrationGuide), ``tunnel`` the
    fact (of a tunnel port or an internal port) whose port this is (``external_ids:df-tunnel``), ``patch`` the bridge to which a
    patch port of ours leads (``external_ids:df-patch``), ``error`` what OVS complains of.
    """

    id: str
    ofport: int | None
    iface_id: str | None = None
    attached_mac: str | None = None
    tunnel: str | None = None
    patch: str | None = None
    error: str | None = None
