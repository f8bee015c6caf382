"""The metadata service's way from guests to the proxy on their own chassis, and back (see ``dragonflow.metadata``).

What a port sends to 169.254.169.254 or fe80::a9fe:a9fe, TCP port 80, goes to the host's interface, whatever MAC it is sent to: on
link, or by a gateway. On this way the addresses are others, which say from which logical port a packet came, and with them alone
the way back is found. Both ways are flows without any state; no guest can be taken for another, whatever it sends.

Cost in flows: 2 for each IPv4 address of a port of this chassis, 2 for its link-local IPv6 address, and one meter; 3 for the
chassis (a question of ARP and one of ND in ``resolution``, and what the proxy sends in ``classification``).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any, NamedTuple

from dragonflow.apps.base import App, renders
from dragonflow.apps.firewall.ingress import Ingress
from dragonflow.apps.l3 import L3
from dragonflow.apps.wiring import is_here, plugged
from dragonflow.controller.view import Me, View
from dragonflow.metadata import address
from dragonflow.model import DHCP_PORT, LogicalPort, OvsPort
from dragonflow.pipeline import (
    DESTINATION,
    SOURCE,
    ApplyMeter,
    Fact,
    InternalPort,
    Meter,
    Output,
    Stage,
    Table,
    Trouble,
    load,
    match,
    set_field,
)

RATE, BURST = 1024, 1024
"""Packets a second, and at once, that a port may send to the proxy: enough to boot by, too few to harm others."""

_METER = 0xFF
"""Stands in a meter's id where meters of punted packets have their kind."""

_IPV4, _IPV6 = {"eth_type": 0x0800, "ip_proto": 6}, {"eth_type": 0x86DD, "ip_proto": 6}
_UPPER_HALF = (1 << 128) - (1 << 64)
_LINK_LOCAL = IPv6Address("fe80::")


class Metadata(App):
    """Leads guests to the metadata proxy."""

    name = "metadata"

    replies = Table(
        "metadata_reply",
        Stage.SERVICES,
        slot=2,
        purpose="Give what the metadata proxy sends the addresses that its guest knows.",
        matches=("eth_type", "ip_proto", "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst", "tcp_src"),
        next=(Ingress.track,),
    )
    requests = Table(
        "metadata",
        Stage.SERVICES,
        slot=1,
        purpose="Hand what guests ask the metadata service to its proxy, by addresses that tell who asks.",
        matches=(SOURCE, "eth_type", "ip_proto", "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst", "tcp_dst"),
        miss=L3.entry,
    )

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """The host's interface."""
        yield from super().host(me, view)
        if me.metadata:
            yield InternalPort(address.INTERFACE)

    @renders(LogicalPort, only=is_here)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """Both ways between a port of this chassis and the proxy. Nova knows ports by their device, so it must have one."""
        where = plugged(port, view)
        if where is None or not serves(port):
            return
        proxy = proxy_ofport(view)
        if proxy is None:
            return
        meter = Meter(_METER << 16 | where.ofport, RATE, BURST)
        yield meter
        if port.key > address.LAST_KEY:
            yield Trouble(f"no metadata by IPv4: the port's key {port.key} is beyond {address.LAST_KEY}")
        for way in _ways(port):
            yield self.requests.flow(
                10,
                match((SOURCE, port.key), **way.family, **way.asked, tcp_dst=address.GUESTS_PORT),
                ApplyMeter(meter.id),
                *set_field(eth_dst=address.MAC, **way.handed, tcp_dst=address.PORT),
                Output(proxy),
            )
            yield self.replies.flow(
                10,
                match(**way.family, **way.answered, tcp_src=address.PORT),
                *set_field(eth_src=address.MAC, eth_dst=port.mac, **way.told, tcp_src=address.GUESTS_PORT),
                load(DESTINATION, port.key),
                goto=Ingress.track,
            )


class _Way(NamedTuple):
    """The addresses of packets to the service: as the guest sends them and as the proxy gets them; and of those back."""

    family: dict[str, Any]
    asked: dict[str, Any]
    handed: dict[str, Any]
    answered: dict[str, Any]
    told: dict[str, Any]


def _ways(port: LogicalPort) -> Iterator[_Way]:
    known, server = str(address.GUESTS_IPV6), str(address.HOSTS_IPV6)
    prefix = address.ipv6_prefix_of(port.key)
    yield _Way(
        _IPV6,
        asked={"ipv6_src": "fe80::/64", "ipv6_dst": known},
        handed={"ipv6_src": (int(prefix), _UPPER_HALF), "ipv6_dst": server},
        answered={"ipv6_src": server, "ipv6_dst": f"{prefix}/64"},
        told={"ipv6_src": known, "ipv6_dst": (int(_LINK_LOCAL), _UPPER_HALF)},
    )
    if port.key > address.LAST_KEY:
        return
    known, guest = str(address.GUESTS_IPV4), str(address.ipv4_of(port.key))
    for index, ip in enumerate(ipv4_addresses(port)):
        server = str(address.server_ipv4(index))
        yield _Way(
            _IPV4,
            asked={"ipv4_src": ip, "ipv4_dst": known},
            handed={"ipv4_src": guest, "ipv4_dst": server},
            answered={"ipv4_src": server, "ipv4_dst": guest},
            told={"ipv4_src": known, "ipv4_dst": ip},
        )


def proxy_ofport(view: View) -> int | None:
    """The OpenFlow port of the host's interface; None while there is none."""
    interface = view.get(OvsPort, address.INTERFACE)
    return None if interface is None or interface.tunnel is None else interface.ofport


def serves(port: LogicalPort) -> bool:
    """Whether there is metadata for the port: it belongs to an instance, as far as Neutron tells."""
    return bool(port.device_id) and port.router is None and port.device_owner != DHCP_PORT


def ipv4_addresses(port: LogicalPort) -> tuple[str, ...]:
    """The port's IPv4 addresses by the index that ``address`` speaks of."""
    return tuple(ip for ip in port.ips if ":" not in ip)[: address.MOST_ADDRESSES]
