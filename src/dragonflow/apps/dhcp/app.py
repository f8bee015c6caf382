"""DHCP for IPv4 and IPv6: each chassis answers its own ports from the replica, also while the DF DB is away.

- A port gets what Neutron gave it: its addresses on subnets with DHCP, and those subnets' options. Nothing is leased out of a
  pool, so nothing is stored, and every chassis gives the same answer.
- Only what the port asks for itself, by its own MAC, is answered. What a guest bridges goes its way.
- The IPv4 server's address is that of the network's DHCP port on the subnet if there is one, else 169.254.169.254 (see
  docs/decisions/0019). Requests to other servers' addresses are not looked at.
- A flood of requests is cut by the port's own meters, in the switch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dragonflow.apps.base import App, answers, renders
from dragonflow.apps.dhcp import v4, v6
from dragonflow.apps.dhcp.common import subnets
from dragonflow.apps.l2 import to_port
from dragonflow.apps.metadata import Metadata
from dragonflow.apps.wiring import is_here, plugged
from dragonflow.controller.view import View
from dragonflow.model import DHCP_PORT, LogicalPort, LogicalSwitch
from dragonflow.packet import dhcpv4, dhcpv4_options, dhcpv6, dhcpv6_options
from dragonflow.pipeline import (
    SOURCE,
    Distributed,
    Fact,
    PacketOut,
    Place,
    Punted,
    PuntKind,
    Stage,
    Table,
    Trouble,
    match,
    punt,
    punt_meter,
)

_ASKS = {
    PuntKind.DHCPV4: {
        "eth_type": 0x0800,
        "ip_proto": 17,
        "udp_src": dhcpv4.CLIENT_PORT,
        "udp_dst": dhcpv4.SERVER_PORT,
    },
    PuntKind.DHCPV6: {
        "eth_type": 0x86DD,
        "ip_proto": 17,
        "udp_src": dhcpv6.CLIENT_PORT,
        "udp_dst": dhcpv6.SERVER_PORT,
    },
}
_PARSE = {4: dhcpv4_options.parse, 6: dhcpv6_options.parse}


class Dhcp(App):
    """Gives ports their addresses."""

    name = "dhcp"
    places = "DHCP ports that no host has bound"

    requests = Table(
        "dhcp",
        Stage.SERVICES,
        purpose="Hand what DHCP clients ask to the controller.",
        matches=(SOURCE, "eth_src", "eth_type", "ip_proto", "ipv4_dst", "ipv6_dst", "udp_src", "udp_dst"),
        miss=Metadata.requests,
    )

    @renders(LogicalPort, only=lambda port, me: port.device_owner == DHCP_PORT or is_here(port, me))
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        """A DHCP port's place; of a port here, its requests, so far as it has something to get."""
        if port.device_owner == DHCP_PORT:
            network = view.get(LogicalSwitch, port.network)
            up = port.chassis is None and port.admin_up and network is not None and network.admin_up
            if up and any(subnet.enable_dhcp for _, subnet in subnets(port, view)):
                yield Place(port.id, Distributed())
            return
        where = plugged(port, view)
        if where is None:
            return
        yield from _wrong_options(port)
        if leases := v4.leases(port, view):
            servers = sorted({v4.BROADCAST, *(lease.server for lease in leases)})
            yield from self._punt(PuntKind.DHCPV4, port, where.ofport, [{"ipv4_dst": int(it)} for it in servers])
        if v6.service(port, view) is not None:
            yield from self._punt(PuntKind.DHCPV6, port, where.ofport, [{"ipv6_dst": int(dhcpv6.ALL_SERVERS)}])

    def _punt(
        self, kind: PuntKind, port: LogicalPort, ofport: int, servers: Sequence[dict[str, Any]]
    ) -> Iterator[Fact]:
        """The flows for what the port asks these servers, and their meter."""
        yield punt_meter(kind, ofport)
        for server in servers:
            asks = match((SOURCE, port.key), eth_src=port.mac, **_ASKS[kind], **server)
            yield self.requests.flow(10, asks, *punt(kind, ofport, port.id.encode()))

    @answers(PuntKind.DHCPV4)
    def answer_v4(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """What the server says to a port's request, if anything."""
        port = view.get(LogicalPort, punted.data.decode())
        answer = None if port is None else v4.answer(punted.packet, port, view)
        if port is not None and answer is not None:
            yield PacketOut(answer, to_port(port))

    @answers(PuntKind.DHCPV6)
    def answer_v6(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """The same for IPv6."""
        port = view.get(LogicalPort, punted.data.decode())
        answer = None if port is None else v6.answer(punted.packet, port, view)
        if port is not None and answer is not None:
            yield PacketOut(answer, to_port(port))


def _wrong_options(port: LogicalPort) -> Iterator[Trouble]:
    for option in port.dhcp_options:
        try:
            _PARSE[option.ip_version](option.name, option.value)
        except ValueError as error:
            yield Trouble(str(error))
        except KeyError:
            yield Trouble(f"DHCP option {option.name!r}: there is no DHCP for IP version {option.ip_version}")
