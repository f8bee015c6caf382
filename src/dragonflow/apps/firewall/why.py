"""Why a packet was refused, in words: which check of port security it failed, or what became of its connection.

No flow says so. It follows from the packet as it came to its end (``apps.drops``), for each table that refuses is one of two:
port security (``guard``) and what comes before the rules know no port (``WHOSE``) yet; rules are asked with a port, and with
what connection tracking says.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address, ip_network

from dragonflow.apps.firewall.guard import own_addresses
from dragonflow.apps.firewall.rules import INV, TRK
from dragonflow.model import LogicalPort
from dragonflow.packet import headers
from dragonflow.packet.headers import ADVERTISEMENT, ARP, ICMPV6, IPV4, IPV6, UDP, Headers
from dragonflow.pipeline import Punted
from dragonflow.pipeline.fields import FIELDS
from dragonflow.pipeline.registers import WHOSE

_NEW = 0x01

NO_RULE = "no rule"
RULE_GONE = "no rule any more: the connection had been allowed"
INVALID = "invalid connection"
NOT_READY = "the port is not ready here yet"
"""Its conntrack zone follows from its binding, which this chassis doesn't know."""

UNREADABLE = "can't be read as far as port security has to"


def why(punted: Punted, port: LogicalPort, *, sent: bool, ready: bool) -> str:
    """The reason, for a packet that ``port`` sent, or would have got; ``ready``: whether the port has a conntrack zone."""
    if punted.read(WHOSE) == port.key:
        return _by_rules(punted)
    packet = headers.read(punted.packet)
    if sent and (found := _of_servers_and_routers(packet) or _spoofed(packet, own_addresses(port))):
        return found
    if packet.eth_type not in (ARP, IPV4, IPV6):
        return f"EtherType {packet.eth_type:#06x} isn't permitted"
    return UNREADABLE if ready else NOT_READY


def _by_rules(punted: Punted) -> str:
    """What the rules say of a packet, or why they weren't asked in the end."""
    state, mark = (punted.fields.get(FIELDS[name], 0) for name in ("ct_state", "ct_mark"))
    if not state & TRK or state & (_NEW | INV) == _NEW:
        return NO_RULE
    return RULE_GONE if mark and not state & INV else INVALID


def _of_servers_and_routers(packet: Headers) -> str | None:
    ports = packet.source_port, packet.destination_port
    if packet.protocol == UDP and (packet.eth_type, *ports) in ((IPV4, 67, 68), (IPV6, 547, 546)):
        return "only DHCP servers send this"
    if packet.protocol == ICMPV6 and packet.icmp_type in (134, 137):
        return "only routers send this"
    return None


def _spoofed(packet: Headers, own: dict[str, set[str]]) -> str | None:
    """Which of the packet's addresses isn't the port's."""
    if packet.eth_src not in own:
        return f"spoofed source: MAC {packet.eth_src} isn't the port's"
    mine = own[packet.eth_src]
    if packet.claimed_mac not in (None, packet.eth_src):
        what = "ARP sender" if packet.eth_type == ARP else "neighbour discovery"
        return f"spoofed source: {what} MAC {packet.claimed_mac} isn't the port's"
    if packet.target is not None and _claims(packet) and not _within(packet.target, mine):
        return f"spoofed source: neighbour discovery claims {packet.target}, which isn't the port's"
    if packet.source is not None and not _within(packet.source, mine):
        what = "ARP sender address" if packet.eth_type == ARP else "address"
        return f"spoofed source: {what} {packet.source} isn't the port's"
    return None


def _claims(packet: Headers) -> bool:
    """Whether neighbour discovery says that the sender has the target, or is about to (RFC 4862 §5.4)."""
    return packet.icmp_type == ADVERTISEMENT or packet.source == "::"


def _within(address: str, own: Collection[str]) -> bool:
    return any(ip_address(address) in ip_network(it, strict=False) for it in own)
