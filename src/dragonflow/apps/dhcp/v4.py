"""What the DHCP server says to IPv4 clients (RFC 2131, 2132, 3442). Pure: a port, its request, and the replica."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

import msgspec

from dragonflow.apps.dhcp.common import SERVER_MAC, subnets
from dragonflow.controller.view import View
from dragonflow.model import LogicalPort, LogicalSwitch, Subnet
from dragonflow.packet import Malformed, dhcpv4, udp
from dragonflow.packet.dhcp_options import FOREVER
from dragonflow.packet.dhcpv4 import Boot, Code, Kind, Request
from dragonflow.packet.dhcpv4_options import NEXT_SERVER, parse, routes, tags

SERVER_ADDRESS = IPv4Address("169.254.169.254")
"""The server's where no DHCP port lends it an address."""

_NO_PORT = (SERVER_ADDRESS, SERVER_MAC)

BROADCAST = IPv4Address("255.255.255.255")
_METADATA = IPv4Network("169.254.169.254/32")
_ANYWHERE = IPv4Network("0.0.0.0/0")
_ON_LINK = IPv4Address(0)
"""As a route's router: the destination needs none (RFC 3442). The metadata service answers ARP in every network."""
_NO_DNS = ("0.0.0.0",)
_ALWAYS = (Code.SERVER, Code.LEASE_TIME, Code.RENEWAL, Code.REBINDING, Code.MASK, Code.MTU)
"""Given whether or not the client asks for them; the MTU, because guests that don't ask for it lose packets in tunnels."""

_OF_LEASES = (Code.LEASE_TIME, Code.RENEWAL, Code.REBINDING)


class Lease(msgspec.Struct, frozen=True):
    """An address that a port may have by DHCP, and the server that gives it."""

    address: IPv4Address
    prefix: IPv4Network
    port: LogicalPort
    network: LogicalSwitch
    subnet: Subnet
    server: IPv4Address
    server_mac: bytes


def answer(frame: bytes, port: LogicalPort, view: View) -> bytes | None:
    """The frame that answers the port's; None for silence."""
    try:
        request = dhcpv4.read(udp.read(frame).payload)
    except Malformed:
        return None
    if request.mac.hex(":") != port.mac.lower():
        return None
    decision = _decide(request, leases(port, view))
    return None if decision is None else _reply(request, *decision, view)


def leases(port: LogicalPort, view: View) -> Sequence[Lease]:
    """The addresses that the port may have by DHCP, in Neutron's order."""
    network = view.get(LogicalSwitch, port.network)
    if network is None:
        return ()
    servers = {
        fixed.subnet: (IPv4Address(fixed.ip), bytes.fromhex(server.mac.replace(":", "")))
        for server in reversed(view.where(LogicalPort, dhcp_network=port.network))
        for fixed in reversed(server.fixed_ips)
        if server.chassis is None and ":" not in fixed.ip
    }
    return [
        Lease(IPv4Address(ip), IPv4Network(subnet.cidr), port, network, subnet, *servers.get(subnet.id, _NO_PORT))
        for ip, subnet in subnets(port, view)
        if subnet.enable_dhcp and ":" not in ip
    ]


def _decide(request: Request, found: Sequence[Lease]) -> tuple[Kind, Lease] | None:
    """What to answer: the type, and the lease that it is about. None for silence (RFC 2131 §4.3)."""
    if not found:
        return None
    wanted = request.address_option(Code.REQUESTED)
    if request.kind == Kind.DISCOVER:
        return Kind.OFFER, next((it for it in found if it.address == wanted), found[0])
    if request.kind == Kind.INFORM:
        return Kind.ACK, next((it for it in found if request.address in it.prefix), found[0])
    if request.kind != Kind.REQUEST:
        return None  # addresses are Neutron's to give: there is nothing to release, and nothing else to give when one is declined
    if Code.SERVER in request.options and request.address_option(Code.SERVER) not in {it.server for it in found}:
        return None  # the client has chosen another server's offer
    if wanted is None:
        wanted = request.address
    lease = next((it for it in found if it.address == wanted), None)
    return (Kind.NAK, found[0]) if lease is None else (Kind.ACK, lease)


def _reply(request: Request, kind: Kind, lease: Lease, view: View) -> bytes:
    """The frame that answers the request."""
    server = {int(Code.SERVER): lease.server.packed}
    if kind == Kind.NAK:
        payload = dhcpv4.write(request, kind, server)
        to = BROADCAST
    else:
        options = {**server, **_options(lease, view)}
        boot = _customise(options, lease.port, request)
        if kind == Kind.ACK and request.kind == Kind.INFORM:
            for code in _OF_LEASES:
                options.pop(code, None)
        yours = IPv4Address(0) if request.kind == Kind.INFORM else lease.address
        payload = dhcpv4.write(request, kind, _chosen(options, request), yours=yours, boot=boot)
        to = BROADCAST if request.broadcast else yours
        if int(request.address):
            to = request.address
    return udp.write(
        udp.Datagram(
            eth_src=lease.server_mac,
            eth_dst=b"\xff" * 6 if to == BROADCAST else request.mac,
            ip_src=lease.server.packed,
            ip_dst=to.packed,
            port_src=dhcpv4.SERVER_PORT,
            port_dst=dhcpv4.CLIENT_PORT,
            payload=payload,
        )
    )


def _options(lease: Lease, view: View) -> dict[int, bytes]:
    """What the subnet calls for, by option (as Neutron's DHCP agent has it)."""
    port, network, subnet = lease.port, lease.network, lease.subnet
    given = [(IPv4Network(it.destination), IPv4Address(it.nexthop)) for it in subnet.host_routes]
    default = next((router for net, router in given if net == _ANYWHERE), None)
    gateway = IPv4Address(subnet.gateway_ip) if subnet.gateway_ip else default
    dns = subnet.dns_nameservers or tuple(it for it in view.me.dhcp_dns_servers if ":" not in it)
    options: dict[int, bytes] = {
        Code.LEASE_TIME: view.me.dhcp_lease_time.to_bytes(4, "big"),
        Code.MASK: lease.prefix.netmask.packed,
        Code.BROADCAST: lease.prefix.broadcast_address.packed,
        Code.MTU: network.mtu.to_bytes(2, "big"),
        Code.HOST_NAME: (port.dns_name or f"host-{str(lease.address).replace('.', '-')}").encode(),
    }
    if dns and dns != _NO_DNS:
        options[Code.DNS] = b"".join(IPv4Address(it).packed for it in dns)
    if network.dns_domain:
        options[Code.DOMAIN] = network.dns_domain.rstrip(".").encode()
    if gateway is not None:
        options[Code.ROUTER] = gateway.packed
    told = [*_on_link(lease, view), *((net, router) for net, router in given if net != _ANYWHERE)]
    metadata = _ON_LINK if view.me.metadata else gateway or _of_dhcp_port(lease)
    if metadata is not None:
        told.append((_METADATA, metadata))
    if told:
        if gateway is not None:
            told.append((_ANYWHERE, gateway))
        options[Code.ROUTES] = options[Code.MICROSOFT_ROUTES] = routes(told)
    return options


def _on_link(lease: Lease, view: View) -> Iterator[tuple[IPv4Network, IPv4Address]]:
    """Routes to the network's other subnets, which need no router."""
    for subnet in view.where(Subnet, network=lease.subnet.network):
        if subnet.id != lease.subnet.id and ":" not in subnet.cidr:
            yield IPv4Network(subnet.cidr), _ON_LINK


def _of_dhcp_port(lease: Lease) -> IPv4Address | None:
    return None if lease.server == SERVER_ADDRESS else lease.server


def _customise(options: dict[int, bytes], port: LogicalPort, request: Request) -> Boot:
    """Put in what the port's own options say; returns what is told of booting."""
    boot: dict[int, bytes] = {}
    known = tags(request.options)
    for option in port.dhcp_options:
        if option.ip_version != 4:
            continue
        try:
            setting = parse(option.name, option.value)
        except ValueError:
            continue  # rendering the port has told
        if setting is None or not setting.applies(known):
            continue
        if setting.code in (NEXT_SERVER, Code.TFTP_SERVER, Code.BOOT_FILE):
            boot[setting.code] = setting.value
        if not setting.value:
            options.pop(setting.code, None)
        elif setting.code != NEXT_SERVER:
            options[setting.code] = setting.value
    seconds = int.from_bytes(options.get(Code.LEASE_TIME, b""), "big")
    if seconds != FOREVER:
        options.setdefault(Code.RENEWAL, (seconds // 2).to_bytes(4, "big"))
        options.setdefault(Code.REBINDING, (seconds * 7 // 8).to_bytes(4, "big"))
    name = boot.get(Code.TFTP_SERVER, b"")
    return Boot(_next_server(boot.get(NEXT_SERVER, b""), name), name, boot.get(Code.BOOT_FILE, b""))


def _next_server(address: bytes, name: bytes) -> IPv4Address:
    """Where to boot from: what was said, or the TFTP server if that is given by its address."""
    try:
        return IPv4Address(address or name.decode())
    except ValueError:
        return IPv4Address(0)


def _chosen(options: Mapping[int, bytes], request: Request) -> Mapping[int, bytes]:
    """What to send of it, the most important first: what is always sent, then what the client asks for, in its order."""
    wanted = options if request.wanted is None else request.wanted
    return {int(code): options[code] for code in (*_ALWAYS, *wanted) if code in options}
