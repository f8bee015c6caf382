"""What guests may not say: attempts with real packets, each of which a listener must not hear; and what they may say."""

from __future__ import annotations

import itertools
from struct import pack

import pytest
from chassis import chassis
from frames import (
    ALL,
    ALL_NODES,
    Listener,
    Sender,
    advertisement,
    arp,
    ethernet,
    icmpv6,
    ip,
    ipv4,
    ipv6,
    link_address,
    mac,
    solicitation,
    udp,
)
from msgspec.structs import replace

from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import AddressPair, FixedIP, LogicalPort
from dragonflow.testing import worlds

NET, TAGS = worlds.network(), worlds.network("tags", 3)
PAIRS = (
    AddressPair("10.0.0.64/29"),
    AddressPair("fd00:9::/64"),
    AddressPair("10.0.0.77", "02:00:00:00:00:77"),
)
A = worlds.port("a", 11, port_security=False)
B = worlds.port("b", 12, address_pairs=PAIRS)
OWN4, OWN6, LOCAL = "10.0.0.12", "fd00::c", "fe80::ff:fe00:c"
MAC, PAIR_MAC, OTHER = B.mac, "02:00:00:00:00:77", "02:00:00:00:00:0d"
NOBODY, ROUTER = "10.0.0.200", "10.0.0.1"
_serial = itertools.count()


def v4(source: str, **fields: object) -> bytes:
    return ipv4(source, A.ips[0], 253, b"data", **fields)  # type: ignore[arg-type]


def v6(source: str, **fields: object) -> bytes:
    return ipv6(source, A.ips[1], 253, b"data", **fields)  # type: ignore[arg-type]


def frame(kind: int, payload: bytes, source: str = MAC, target: str = A.mac, *tags: tuple[int, int]) -> bytes:
    return ethernet(source, target, kind, payload, *tags)


def says(op: int, sha: str, spa: str, tpa: str = NOBODY, target: str = A.mac, *, source: str = MAC) -> bytes:
    return frame(0x0806, arp(op, sha, spa, A.mac, tpa), source, target)


def six(packet: bytes, source: str = MAC, target: str = ALL_NODES) -> bytes:
    return frame(0x86DD, packet, source, target)


SLL, TLL = (link_address(kind, MAC) for kind in (1, 2))
FOREIGN_SLL, FOREIGN_TLL = (link_address(kind, OTHER) for kind in (1, 2))
_DESTINATION_OPTIONS = 60
_FRAGMENT = 44
_ROUTER_ADVERTISEMENT = pack(">BBHIIBB", 64, 0, 1800, 0, 0, 1, 1) + mac(MAC)

HIDDEN = pack(">BBHI", _DESTINATION_OPTIONS, 0, 1, 7) + pack(">BBBBI", 58, 0, 1, 4, 0)
"""A first fragment that holds nothing but destination options: ICMPv6 follows in the second."""

REFUSED = {
    "MAC": frame(0x0800, v4(OWN4), OTHER),
    "MAC with its own address, IPv6": frame(0x86DD, v6(OWN6), OTHER),
    "IPv4": frame(0x0800, v4("10.0.0.13")),
    "IPv4 of the router": frame(0x0800, v4(ROUTER)),
    "IPv4 broadcast": frame(0x0800, v4("255.255.255.255")),
    "IPv4 multicast": frame(0x0800, v4("224.0.0.5")),
    "IPv4 unspecified, no DHCP": frame(0x0800, v4("0.0.0.0")),
    "IPv4 unspecified, DHCP to one": frame(0x0800, udp("0.0.0.0", A.ips[0], 68, 67)),
    "IPv4 loopback": frame(0x0800, v4("127.0.0.1")),
    "IPv4 outside the pair's prefix": frame(0x0800, v4("10.0.0.72")),
    "IPv4 of a pair, with the wrong MAC": frame(0x0800, v4("10.0.0.77")),
    "own IPv4 with a pair's MAC": frame(0x0800, v4(OWN4), PAIR_MAC),
    "later fragment": frame(0x0800, v4("10.0.0.13", fragment=0x2010)),
    "IPv6": frame(0x86DD, v6("fd00::d")),
    "IPv6 link-local": frame(0x86DD, v6("fe80::ff:fe00:d")),
    "IPv6 unspecified": frame(0x86DD, v6("::")),
    "IPv6 multicast": frame(0x86DD, v6("ff02::1")),
    "IPv6 outside the pair's prefix": frame(0x86DD, v6("fd00:a::1")),
    "ARP request with another's MAC inside": says(1, OTHER, OWN4),
    "ARP request under another's address": says(1, MAC, "10.0.0.13"),
    "ARP request with another's MAC outside": says(1, MAC, OWN4, source=OTHER),
    "ARP announcement of another's address": says(1, MAC, "10.0.0.13", "10.0.0.13", ALL),
    "ARP announcement of the listener's address": says(1, MAC, A.ips[0], A.ips[0], ALL),
    "ARP reply for another's address": says(2, MAC, "10.0.0.13", A.ips[0]),
    "ARP reply for the gateway": says(2, MAC, ROUTER, A.ips[0]),
    "ARP reply with another's MAC": says(2, OTHER, OWN4, A.ips[0]),
    "ARP reply for a pair's address, with the wrong MAC": says(2, MAC, "10.0.0.77", A.ips[0]),
    "reverse ARP": frame(0x8035, arp(3, MAC, OWN4, MAC, OWN4), target=ALL),
    "NS with another's link-layer address": six(solicitation(OWN6, "fd00::b", FOREIGN_SLL)),
    "NS with two, the second another's": six(solicitation(OWN6, "fd00::99", SLL, FOREIGN_SLL)),
    "NS with two of another's": six(solicitation(OWN6, "fd00::99", FOREIGN_SLL, FOREIGN_SLL)),
    "NS under another's address": six(solicitation("fd00::d", "fd00::99", SLL)),
    "DAD for another's address": six(solicitation("::", "fd00::d")),
    "NA for another's address": six(advertisement(OWN6, "fd00::d", TLL)),
    "NA for another's address, without MAC": six(advertisement(OWN6, "fd00::d")),
    "NA for the gateway, with override": six(advertisement(OWN6, "fd00::1", TLL, flags=0xA0000000)),
    "NA for its own address with another's MAC": six(advertisement(OWN6, OWN6, FOREIGN_TLL)),
    "NA with two MACs, the second another's": six(advertisement(OWN6, OWN6, TLL, FOREIGN_TLL)),
    "NA under another's address": six(advertisement("fd00::d", OWN6, TLL)),
    "NA from nobody": six(advertisement("::", OWN6, TLL)),
    "RA": six(icmpv6(LOCAL, "ff02::1", 134, _ROUTER_ADVERTISEMENT)),
    "RA that hides behind destination options": six(ipv6(LOCAL, "ff02::1", 0, b"", headers=HIDDEN, first=_FRAGMENT)),
    "redirect": six(icmpv6(LOCAL, A.ips[1], 137, bytes(4) + ip("fd00::99") + ip(OWN6)), target=A.mac),
    "DHCP offer": frame(0x0800, udp(OWN4, A.ips[0], 67, 68)),
    "DHCP offer to all": frame(0x0800, udp(OWN4, "255.255.255.255", 67, 68), target=ALL),
    "DHCPv6 advertisement": frame(0x86DD, udp(LOCAL, A.ips[1], 547, 546)),
    "VLAN tag": frame(0x0800, v4(OWN4), MAC, A.mac, (0x8100, 101)),
    "priority tag": frame(0x0800, v4(OWN4), MAC, A.mac, (0x8100, 0x2000)),
    "ARP under a VLAN tag": frame(0x0806, arp(2, MAC, OWN4, A.mac, A.ips[0]), MAC, A.mac, (0x8100, 101)),
    "QinQ": frame(0x0800, v4(OWN4), MAC, A.mac, (0x88A8, 5), (0x8100, 101)),
    "LLDP": frame(0x88CC, b"\2\7\4" + mac(MAC), target="01:80:c2:00:00:0e"),
    "STP": frame(38, bytes.fromhex("424203") + bytes(35), target="01:80:c2:00:00:00"),
    "unknown EtherType": frame(0x9000, b"loop"),
    "MPLS": frame(0x8847, bytes(20)),
    "PPPoE discovery": frame(0x8863, bytes(20), target=ALL),
}

ALLOWED = {
    "IPv4": frame(0x0800, v4(OWN4)),
    "IPv6": frame(0x86DD, v6(OWN6)),
    "IPv6 link-local": frame(0x86DD, v6(LOCAL)),
    "IPv4 within a pair's prefix": frame(0x0800, v4("10.0.0.65")),
    "IPv6 within a pair's prefix": frame(0x86DD, v6("fd00:9::7")),
    "IPv4 of a pair with its MAC": frame(0x0800, v4("10.0.0.77"), PAIR_MAC),
    "link-local of a pair's MAC": frame(0x86DD, v6("fe80::ff:fe00:77"), PAIR_MAC),
    "DHCP discovery": frame(0x0800, udp("0.0.0.0", "255.255.255.255", 68, 67), target=ALL),
    "ARP request": says(1, MAC, OWN4),
    "ARP probe": says(1, MAC, "0.0.0.0", OWN4, ALL),
    "ARP announcement": says(1, MAC, OWN4, OWN4, ALL),
    "ARP reply": says(2, MAC, OWN4, A.ips[0]),
    "ARP reply for a pair's address": says(2, PAIR_MAC, "10.0.0.77", A.ips[0], source=PAIR_MAC),
    "NS": six(solicitation(OWN6, "fd00::99", SLL)),
    "NS without its MAC": six(solicitation(OWN6, A.ips[1], to=A.ips[1]), target=A.mac),
    "DAD": six(solicitation("::", OWN6)),
    "DAD for its link-local address": six(solicitation("::", LOCAL)),
    "DAD for a pair's address": six(solicitation("::", "fd00:9::7")),
    "NA": six(advertisement(OWN6, OWN6, TLL, flags=0x40000000)),
    "NA unasked, with override": six(advertisement(OWN6, OWN6, TLL)),
    "NA without its MAC": six(advertisement(OWN6, OWN6)),
    "NA for a pair's address": six(advertisement("fd00:9::7", "fd00:9::7", TLL)),
}


def heard(listener: Listener, sender: Sender, frames: dict[str, bytes], host: LogicalPort = B) -> list[str]:
    """Which of the frames come through. Each is sent three times, for any may be lost; a last one, that may pass, ends it."""
    last = ethernet(host.mac, ALL, 0x0800, ipv4(host.ips[0], A.ips[0], 253, str(next(_serial)).encode()))
    for _ in range(3):
        sender.send(*frames.values())
    names = {found: name for name, found in frames.items()}
    found = {names[it] for it in listener.until(last, sender) if it in names}
    return [name for name in frames if name in found]


async def test_no_attempt_is_heard_and_all_that_is_right_is(vswitch: VSwitch) -> None:
    async with chassis(vswitch) as here:
        await here.now(NET, A, B)
        a, b = await here.vm(A), await here.vm(B)
        with Listener(a) as listener, Sender(b) as sender:
            assert heard(listener, sender, REFUSED) == []
            assert heard(listener, sender, ALLOWED) == list(ALLOWED)
            await here.now(replace(B, address_pairs=(), revision=2))
            here.vswitch.appctl("revalidator/wait")
            lost = [name for name in ALLOWED if "pair" in name]
            assert heard(listener, sender, ALLOWED) == [name for name in ALLOWED if name not in lost]
            everything = AddressPair("0.0.0.0/0"), AddressPair("::/0")
            await here.now(replace(B, address_pairs=everything, revision=3))
            here.vswitch.appctl("revalidator/wait")
            assert heard(listener, sender, {"any": REFUSED["IPv4"], "six": REFUSED["IPv6"]}) == ["any", "six"]
            assert heard(listener, sender, {"MAC": REFUSED["MAC"], "RA": REFUSED["RA"]}) == []
            await here.now(replace(B, address_pairs=(), port_security=False, revision=4))
            here.vswitch.appctl("revalidator/wait")
            free = {name: it for name, it in REFUSED.items() if name not in _ANSWERED}
            assert heard(listener, sender, free) == list(free)


_ANSWERED = {
    "ARP announcement of the listener's address",
    "NS with another's link-layer address",
}
"""What the switch answers itself, in the owner's name."""


@pytest.mark.parametrize("which", ["a", "b"])
async def test_nothing_passes_a_port_that_is_switched_off(vswitch: VSwitch, which: str) -> None:
    async with chassis(vswitch) as here:
        await here.now(NET, A, B)
        vms = {"a": await here.vm(A), "b": await here.vm(B)}
        other = worlds.port("c", 13)
        await here.now(other)
        vms["c"] = await here.vm(other)
        up = {"a": A, "b": B}[which]
        asks = {"down": frame(0x0806, arp(1, MAC, OWN4, A.mac, NOBODY), target=ALL)}
        with Listener(vms["a"]) as at_a, Listener(vms["c"]) as at_c, Sender(vms["b"]) as sender:
            assert heard(at_a, sender, asks) == ["down"]
            assert heard(at_c, sender, asks) == ["down"]
            await here.now(replace(up, admin_up=False, revision=2))
            here.vswitch.appctl("revalidator/wait")
            silent = frame(0x0806, arp(1, MAC, OWN4, A.mac, "10.0.0.201"), target=ALL)
            sender.send(*[silent] * 3)
            if which == "a":
                assert heard(at_c, sender, {"silent": silent}) == ["silent"], "only one of them is off"
            await here.now(replace(up, revision=3))
            here.vswitch.appctl("revalidator/wait")
            found = [it for it in at_a.until(asks["down"], sender) if it == silent]
            assert found == []
            if which == "b":
                assert silent not in list(at_c.until(asks["down"], sender))


async def test_parents_and_children_of_a_trunk_are_held_apart(vswitch: VSwitch) -> None:
    """A child sends under no address of its parent's, nor the parent under one of its child's."""
    parent = worlds.port("p", 51, trunk="t")
    tags = FixedIP("tags4", "10.3.0.52"), FixedIP("tags6", "fd03::34")
    child = worlds.child("p1", 52, "p", 101, net="tags", fixed_ips=tags)
    there = worlds.port("x", 31, net="tags", port_security=False)
    four, six = tags[0].ip, tags[1].ip

    def tagged(source: str, address: str, vlan: int = 101) -> bytes:
        return frame(0x0800, ipv4(address, "10.3.0.31", 253, b"tagged"), source, there.mac, (0x8100, vlan))

    with_parents = {
        "address": tagged(child.mac, parent.ips[0]),
        "MAC": tagged(parent.mac, four),
        "both": tagged(parent.mac, parent.ips[0]),
        "ARP": frame(0x0806, arp(2, child.mac, parent.ips[0], there.mac, "10.3.0.31"), child.mac, ALL, (0x8100, 101)),
        "no child's tag": tagged(child.mac, four, 102),
        "another tag below": frame(
            0x0800, ipv4(four, "10.3.0.31", 253, b"q"), child.mac, there.mac, (0x8100, 101), (0x8100, 5)
        ),
    }
    with_childs = {
        "address": frame(0x0800, ipv4(four, A.ips[0], 253, b"x"), parent.mac),
        "MAC": frame(0x0800, ipv4(parent.ips[0], A.ips[0], 253, b"x"), child.mac),
        "IPv6": frame(0x86DD, ipv6(six, A.ips[1], 253, b"x"), parent.mac),
    }
    async with chassis(vswitch) as here:
        await here.now(NET, TAGS, A, parent, child, there)
        a, p, x = await here.vm(A), await here.vm(parent), await here.vm(there)
        with Listener(a) as at_a, Listener(x) as at_x, Sender(p) as sender:
            assert heard(at_a, sender, with_childs, parent) == []
            sender.send(*with_parents.values(), *with_parents.values())
            untagged = frame(0x0800, ipv4(four, "10.3.0.31", 253, b"tagged"), child.mac, there.mac)
            assert list(at_x.until(untagged, sender, tagged(child.mac, four))) == []
