"""What the DHCP server says to IPv6 clients (RFC 8415). Pure: a port, its request, and the replica.

A subnet's mode decides: ``dhcpv6-stateful`` gives addresses and options, ``dhcpv6-stateless`` options alone, and ``slaac`` is
none of DHCP's. As with Neutron's own agent, a subnet without any mode is stateful.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Address

import msgspec

from dragonflow.apps.dhcp.common import SERVER_MAC, subnets
from dragonflow.controller.view import View
from dragonflow.model import LogicalPort, LogicalSwitch, Subnet
from dragonflow.packet import Malformed, dhcpv6, udp
from dragonflow.packet.dhcp_options import FOREVER, domains
from dragonflow.packet.dhcpv6 import Association, Code, Kind, Request, Status, Times
from dragonflow.packet.dhcpv6_options import parse, tags

STATEFUL, STATELESS = "dhcpv6-stateful", "dhcpv6-stateless"

SERVER_ID = b"\0\3\0\1" + SERVER_MAC
"""The server's DUID, made of its MAC (DUID-LL, RFC 8415 §11.4): to a guest that moves, the next chassis is the same server."""

SERVER_ADDRESS = IPv6Address("fe80::df:ff:fe00:67")
"""The link-local address that belongs to this MAC."""

_LINK_LOCAL = (b"\xfe\x80" + bytes(6), 8)
_FIRST_CHOICE = b"\xff"
"""The preference for which a client waits for no other server (§18.2.1)."""

_NO_DNS = ("::",)


class Service(msgspec.Struct, frozen=True):
    """What a port may get: addresses, and the options of ``subnet``."""

    port: LogicalPort
    network: LogicalSwitch
    subnet: Subnet
    addresses: tuple[IPv6Address, ...]


def service(port: LogicalPort, view: View) -> Service | None:
    """What the port may get; None: nothing."""
    network = view.get(LogicalSwitch, port.network)
    served = [(ip, subnet, _mode(subnet)) for ip, subnet in subnets(port, view) if ":" in ip]
    by_dhcp = [it for it in served if it[2] is not None]
    if network is None or not by_dhcp:
        return None
    return Service(port, network, by_dhcp[0][1], tuple(IPv6Address(ip) for ip, _, mode in by_dhcp if mode == STATEFUL))


def _mode(subnet: Subnet) -> str | None:
    if not subnet.enable_dhcp:
        return None
    if subnet.ipv6_address_mode is None and subnet.ipv6_ra_mode is None:
        return STATEFUL
    return subnet.ipv6_address_mode if subnet.ipv6_address_mode in (STATEFUL, STATELESS) else None


def answer(frame: bytes, port: LogicalPort, view: View) -> bytes | None:
    """The frame that answers the port's; None for silence."""
    found = service(port, view)
    try:
        asked = udp.read(frame)
        request = dhcpv6.read(asked.payload)
    except Malformed:
        return None
    prefix, length = _LINK_LOCAL
    if found is None or asked.eth_src.hex(":") != port.mac.lower() or asked.ip_src[:length] != prefix:
        return None
    if request.options.get(Code.SERVER_ID, SERVER_ID) != SERVER_ID:
        return None  # it is for another server
    message = _message(request, found, view)
    if message is None:
        return None
    return udp.write(
        udp.Datagram(
            eth_src=SERVER_MAC,
            eth_dst=asked.eth_src,
            ip_src=SERVER_ADDRESS.packed,
            ip_dst=asked.ip_src,
            port_src=dhcpv6.SERVER_PORT,
            port_dst=dhcpv6.CLIENT_PORT,
            payload=message,
        )
    )


def _message(request: Request, found: Service, view: View) -> bytes | None:
    """The answer (§18.3), None for silence."""
    if request.kind == Kind.CONFIRM:
        claimed = [address for it in request.associations for address in it.addresses]
        if not claimed:
            return None
        right = set(claimed) <= set(found.addresses)
        words = dhcpv6.status(Status.SUCCESS if right else Status.NOT_ON_LINK)
        return dhcpv6.write(request, Kind.REPLY, SERVER_ID, (words,), {})
    if request.kind in (Kind.RELEASE, Kind.DECLINE):  # addresses are Neutron's to give: there is nothing else to do
        return dhcpv6.write(request, Kind.REPLY, SERVER_ID, (dhcpv6.status(Status.SUCCESS),), {})
    kind, parts = Kind.REPLY, list(_associations(request, found, view))
    if request.kind == Kind.SOLICIT and found.addresses:
        if Code.RAPID_COMMIT in request.options:
            parts.insert(0, dhcpv6.option(Code.RAPID_COMMIT, b""))
        else:
            kind = Kind.ADVERTISE
            parts.insert(0, dhcpv6.option(Code.PREFERENCE, _FIRST_CHOICE))
    elif request.kind == Kind.SOLICIT:
        kind = Kind.ADVERTISE
    options = _options(request, found, view)
    wanted = request.wanted or options
    return dhcpv6.write(request, kind, SERVER_ID, parts, {code: options[code] for code in wanted if code in options})


def _associations(request: Request, found: Service, view: View) -> Iterator[bytes]:
    """What becomes of each association: one gets all of the port's addresses, for there is one port; the others get none."""
    times = _times(view.me.dhcp_lease_time)
    chosen = _chosen(request.associations, found.addresses)
    renews = request.kind in (Kind.RENEW, Kind.REBIND)
    for it in request.associations:
        given = found.addresses if it is chosen else ()
        withdrawn = [address for address in it.addresses if address not in given] if renews else []
        if it.code == Code.IA_NA and (given or withdrawn):
            yield dhcpv6.leased(it, given, withdrawn, times)
        else:
            yield dhcpv6.refused(it, Status.NO_PREFIXES if it.code == Code.IA_PD else Status.NO_ADDRESSES)


def _chosen(associations: Sequence[Association], addresses: Sequence[IPv6Address]) -> Association | None:
    """Which one gets the addresses: the first that has one of them already, else the first of all."""
    able = [it for it in associations if it.code == Code.IA_NA]
    return next((it for it in able if set(it.addresses) & set(addresses)), able[0] if able else None)


def _times(lease: int) -> Times:
    return Times(lease, *((FOREVER, FOREVER) if lease == FOREVER else (lease // 2, lease * 4 // 5)))


def _options(request: Request, found: Service, view: View) -> Mapping[int, bytes]:
    """What the subnet and the port call for, by option."""
    options: dict[int, bytes] = {Code.REFRESH: view.me.dhcp_lease_time.to_bytes(4, "big")}
    dns = found.subnet.dns_nameservers or tuple(it for it in view.me.dhcp_dns_servers if ":" in it)
    if dns and dns != _NO_DNS:
        options[Code.DNS] = b"".join(IPv6Address(it).packed for it in dns)
    if found.network.dns_domain:
        options[Code.DOMAINS] = domains(found.network.dns_domain)
    if request.kind != Kind.INFORMATION_REQUEST:
        del options[Code.REFRESH]
    known = tags(request.options)
    for option in found.port.dhcp_options:
        try:
            setting = parse(option.name, option.value) if option.ip_version == 6 else None
        except ValueError:
            continue  # rendering the port has told
        if setting is None or not setting.applies(known):
            continue
        if setting.value:
            options[setting.code] = setting.value
        else:
            options.pop(setting.code, None)
    return options
