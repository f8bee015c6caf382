"""What the DHCPv6 server says, with scapy as the client."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import dhcp6
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from dragonflow.apps import APPS
from dragonflow.apps.dhcp import Dhcp
from dragonflow.apps.dhcp.common import SERVER_MAC
from dragonflow.apps.l2 import to_port
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.view import Me, View
from dragonflow.model import DhcpOption, FixedIP
from dragonflow.packet.dhcpv6 import Status
from dragonflow.pipeline import Flow, Meter, Owner, Punt, Punted, PuntKind, match
from dragonflow.pipeline.registers import SOURCE
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world
from dragonflow.testing.worlds import World

ME = Me(chassis="here", tunnel_ip="192.0.2.1", dhcp_lease_time=3600)
NET = worlds.network(dns_domain="example.org")
V6 = worlds.subnet("v6", "fd00::/64", ipv6_address_mode="dhcpv6-stateful", ipv6_ra_mode="dhcpv6-stateful")
V6 = msgspec.structs.replace(V6, dns_nameservers=("fd00::53", "fd00::54"))
STATELESS = msgspec.structs.replace(V6, ipv6_address_mode="dhcpv6-stateless", ipv6_ra_mode="dhcpv6-stateless")
A = worlds.port("a", 11)
HERE = (NET, V6, A, worlds.tap("a", 1))
OURS, OTHERS = "fd00::b", "fd00::99"

CLIENT = dhcp6.DHCP6OptClientId(duid=dhcp6.DUID_LL(lladdr=A.mac))
SERVER = dhcp6.DHCP6OptServerId(duid=dhcp6.DUID_LL(lladdr=SERVER_MAC.hex(":")))
STRANGER = dhcp6.DHCP6OptServerId(duid=dhcp6.DUID_LL(lladdr="02:00:00:00:00:99"))
RAPID = dhcp6.DHCP6OptRapidCommit()
HEAD = Ether(src=A.mac, dst="33:33:00:01:00:02") / IPv6(src="fe80::11", dst="ff02::1:2") / UDP(sport=546, dport=547)


def ia(*addresses: str, iaid: int = 7) -> Any:
    return dhcp6.DHCP6OptIA_NA(iaid=iaid, ianaopts=[dhcp6.DHCP6OptIAAddress(addr=it) for it in addresses])


def wants(*codes: int) -> Any:
    return dhcp6.DHCP6OptOptReq(reqopts=list(codes))


def answers(asked: Any, *objects: Object, head: Any = HEAD, me: Me = ME) -> list[Any]:
    replica = Replica()
    worlds.load(replica, *(objects or HERE))
    frame = asked if isinstance(asked, bytes) else bytes(head / asked)
    sent = list(Dhcp().answer_v6(Punted(PuntKind.DHCPV6, b"a", frame, 1, {}), View(replica, {}, me)))
    assert all(it.actions == to_port(A) for it in sent)
    return [Ether(it.packet) for it in sent]


def answer(asked: Any, *objects: Object) -> Any:
    (only,) = answers(asked, *objects)
    return only


def given_in(reply: Any) -> list[tuple[str, int]]:
    """The addresses of the first association, each with its lifetime."""
    options = reply[dhcp6.DHCP6OptIA_NA].ianaopts
    return [(it.addr, it.validlft) for it in options if isinstance(it, dhcp6.DHCP6OptIAAddress)]


def test_a_port_is_offered_its_address_and_gets_it() -> None:
    offer = answer(dhcp6.DHCP6_Solicit(trid=5) / CLIENT / ia())
    assert (offer.src, offer.dst, offer[IPv6].src, offer[IPv6].dst) == (
        "02:df:00:00:00:67",
        A.mac,
        "fe80::df:ff:fe00:67",
        "fe80::11",
    )
    assert (offer[UDP].sport, offer[UDP].dport) == (547, 546)
    assert isinstance(offer[UDP].payload, dhcp6.DHCP6_Advertise)
    assert offer[dhcp6.DHCP6_Advertise].trid == 5
    assert offer[dhcp6.DHCP6OptPref].prefval == 255
    assert bytes(offer[dhcp6.DHCP6OptServerId].duid) == b"\0\3\0\1" + SERVER_MAC
    assert given_in(offer) == [(OURS, 3600)]
    assert (offer[dhcp6.DHCP6OptIA_NA].iaid, offer[dhcp6.DHCP6OptIA_NA].T1, offer[dhcp6.DHCP6OptIA_NA].T2) == (
        7,
        1800,
        2880,
    )
    reply = answer(dhcp6.DHCP6_Request() / CLIENT / SERVER / ia(OURS) / wants(23, 24, 32, 77))
    assert isinstance(reply[UDP].payload, dhcp6.DHCP6_Reply)
    assert given_in(reply) == [(OURS, 3600)]
    assert reply[dhcp6.DHCP6OptDNSServers].dnsservers == ["fd00::53", "fd00::54"]
    assert reply[dhcp6.DHCP6OptDNSDomains].dnsdomains == ["example.org."]
    assert dhcp6.DHCP6OptInfoRefreshTime not in reply


def test_who_is_in_a_hurry_gets_it_at_once() -> None:
    reply = answer(dhcp6.DHCP6_Solicit() / CLIENT / RAPID / ia())
    assert isinstance(reply[UDP].payload, dhcp6.DHCP6_Reply)
    assert dhcp6.DHCP6OptRapidCommit in reply
    assert given_in(reply) == [(OURS, 3600)]


@pytest.mark.parametrize("message", [dhcp6.DHCP6_Renew() / CLIENT / SERVER, dhcp6.DHCP6_Rebind() / CLIENT])
def test_an_address_is_kept_and_a_wrong_one_is_taken_away(message: Any) -> None:
    assert given_in(answer(message / ia(OURS))) == [(OURS, 3600)]
    assert given_in(answer(message / ia(OTHERS))) == [(OURS, 3600), (OTHERS, 0)]
    assert given_in(answer(message / ia(OURS), NET, STATELESS, A)) == [(OURS, 0)]


def test_a_guest_that_was_away_hears_whether_its_address_is_still_right() -> None:
    for addresses, expected in (((OURS,), Status.SUCCESS), ((OURS, OTHERS), Status.NOT_ON_LINK)):
        reply = answer(dhcp6.DHCP6_Confirm() / CLIENT / ia(*addresses))
        assert reply[dhcp6.DHCP6OptStatusCode].statuscode == expected
    assert answers(dhcp6.DHCP6_Confirm() / CLIENT / ia()) == []


@pytest.mark.parametrize("kind", [dhcp6.DHCP6_Release, dhcp6.DHCP6_Decline])
def test_what_is_given_back_is_acknowledged(kind: Any) -> None:
    reply = answer(kind() / CLIENT / SERVER / ia(OURS))
    assert reply[dhcp6.DHCP6OptStatusCode].statuscode == Status.SUCCESS
    assert dhcp6.DHCP6OptIA_NA not in reply


def test_options_alone_are_for_stateful_and_stateless_subnets() -> None:
    for subnet in (V6, STATELESS):
        reply = answer(dhcp6.DHCP6_InfoRequest() / wants(23, 32), NET, subnet, A)
        assert reply[dhcp6.DHCP6OptDNSServers].dnsservers == ["fd00::53", "fd00::54"]
        assert reply[dhcp6.DHCP6OptInfoRefreshTime].reftime == 3600
        assert dhcp6.DHCP6OptClientId not in reply
    reply = answer(dhcp6.DHCP6_Solicit() / CLIENT / RAPID / ia(), NET, STATELESS, A)
    assert isinstance(reply[UDP].payload, dhcp6.DHCP6_Advertise)
    assert reply[dhcp6.DHCP6OptStatusCode].statuscode == Status.NO_ADDRESSES


def test_prefixes_and_further_associations_get_nothing() -> None:
    both = dhcp6.DHCP6_Solicit() / CLIENT / ia(iaid=1) / ia(OURS, iaid=2) / dhcp6.DHCP6OptIA_PD(iaid=3)
    first = answer(both)[dhcp6.DHCP6OptIA_NA]
    second = first.payload
    assert (first.iaid, first.ianaopts[0].statuscode) == (1, Status.NO_ADDRESSES)
    assert (second.iaid, second.ianaopts[0].addr) == (2, OURS)
    assert second.payload.iapdopt[0].statuscode == Status.NO_PREFIXES


def test_a_port_says_more_or_less_than_its_subnet() -> None:
    options = (
        DhcpOption("dns-server", "", 6),
        DhcpOption("tag:!ipxe6,bootfile-url", "tftp://x", 6),
        DhcpOption("tag:ipxe6,bootfile-url", "http://x", 6),
        DhcpOption("nonsense", "1", 6),
        DhcpOption("bootfile-name", "four", 4),
    )
    port = msgspec.structs.replace(A, dhcp_options=options)
    asked = dhcp6.DHCP6_Request() / CLIENT / SERVER / ia() / wants(23, 59)
    reply = answer(asked, NET, V6, port)
    assert dhcp6.DHCP6OptDNSServers not in reply
    assert reply[dhcp6.DHCP6OptBootFileUrl].optdata == b"tftp://x"
    ipxe = dhcp6.DHCP6OptUserClass(userclassdata=[dhcp6.USER_CLASS_DATA(data=b"iPXE")])
    assert answer(asked / ipxe, NET, V6, port)[dhcp6.DHCP6OptBootFileUrl].optdata == b"http://x"


@pytest.mark.parametrize(
    ("asked", "head"),
    [
        (dhcp6.DHCP6_Request() / CLIENT / STRANGER / ia(OURS), HEAD),
        (dhcp6.DHCP6_InfoRequest() / STRANGER, HEAD),
        (dhcp6.DHCP6_Reply() / CLIENT / SERVER, HEAD),
        (dhcp6.DHCP6_RelayForward() / dhcp6.DHCP6OptRelayMsg(message=dhcp6.DHCP6_Solicit() / CLIENT), HEAD),
        (dhcp6.DHCP6_Solicit() / CLIENT / ia(), Ether(src="02:00:00:00:00:99") / HEAD[IPv6]),
        (dhcp6.DHCP6_Solicit() / CLIENT / ia(), Ether(src=A.mac) / IPv6(src="::") / HEAD[UDP]),
        (b"", HEAD),
    ],
)
def test_silence(asked: Any, head: Any) -> None:
    assert answers(asked, head=head) == []


SOLICIT = bytes(HEAD / dhcp6.DHCP6_Solicit() / CLIENT / ia())


@given(st.binary(max_size=300), st.integers(0, len(SOLICIT)), st.integers(0, 8))
def test_whatever_a_guest_sends_it_is_answered_with_its_own_address_or_not_at_all(
    noise: bytes, at: int, cut: int
) -> None:
    for frame in (noise, SOLICIT[:at] + noise[:cut] + SOLICIT[at + cut :], SOLICIT[:at] + noise):
        for reply in answers(frame):
            assert reply.dst == A.mac
            if dhcp6.DHCP6OptIA_NA in reply:
                assert {address for address, left in given_in(reply) if left} <= {OURS}


@pytest.mark.parametrize(
    "subnet",
    [
        msgspec.structs.replace(V6, enable_dhcp=False),
        msgspec.structs.replace(V6, ipv6_address_mode="slaac", ipv6_ra_mode="slaac"),
        msgspec.structs.replace(V6, ipv6_address_mode=None, ipv6_ra_mode="slaac"),
        worlds.subnet("v4"),
    ],
)
def test_who_has_nothing_to_get_is_not_served(subnet: Object) -> None:
    assert answers(dhcp6.DHCP6_Solicit() / CLIENT / ia(), NET, subnet, A) == []
    assert PuntKind.DHCPV6 not in kinds(NET, subnet, A, worlds.tap("a", 1))


def test_a_subnet_without_a_mode_is_stateful() -> None:
    plain = msgspec.structs.replace(V6, ipv6_address_mode=None, ipv6_ra_mode=None)
    assert given_in(answer(dhcp6.DHCP6_Solicit() / CLIENT / ia(), NET, plain, A)) == [(OURS, 3600)]


def test_all_addresses_of_a_port_go_into_one_association() -> None:
    other = msgspec.structs.replace(V6, id="w6", cidr="fd01::/64")
    port = msgspec.structs.replace(A, fixed_ips=(*A.fixed_ips, FixedIP("w6", "fd01::b")))
    reply = answer(dhcp6.DHCP6_Solicit() / CLIENT / ia(), NET, V6, other, port)
    assert given_in(reply) == [(OURS, 3600), ("fd01::b", 3600)]


def facts(*objects: Object) -> list[Any]:
    return list(compile_world(APPS, World.of(ME, *objects)).facts.get(Owner("dhcp", "LogicalPort", "a"), ()))


def kinds(*objects: Object) -> set[int]:
    return {fact.actions[-1].kind for fact in facts(*objects) if isinstance(fact, Flow)}


def test_ports_here_are_served_with_a_meter_of_their_own() -> None:
    meter, flow = facts(*HERE)
    assert isinstance(meter, Meter)
    assert flow == Dhcp.requests.flow(
        10,
        match(
            (SOURCE, 11),
            eth_src=A.mac,
            eth_type=0x86DD,
            ip_proto=17,
            ipv6_dst="ff02::1:2",
            udp_src=546,
            udp_dst=547,
        ),
        *flow.actions[:1],
        Punt(PuntKind.DHCPV6, b"a"),
    )
    assert flow.actions[0].meter == meter.id
    assert kinds(*HERE, worlds.subnet()) == {PuntKind.DHCPV4, PuntKind.DHCPV6}
