"""DHCPv6 messages against scapy; and what is none."""

from __future__ import annotations

import contextlib
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import dhcp6

from dragonflow.packet import Malformed, dhcpv6
from dragonflow.packet.dhcpv6 import Association, Code, Kind, Request, Status, Times
from dragonflow.packet.dhcpv6_options import parse, tags

DUID = bytes.fromhex("00030001020000000001")
CLIENT = dhcp6.DHCP6OptClientId(duid=dhcp6.DUID_LL(lladdr="02:00:00:00:00:01"))
SERVER = dhcp6.DHCP6OptServerId(duid=dhcp6.DUID_LL(lladdr="02:00:00:00:00:02"))
ADDRESS = dhcp6.DHCP6OptIAAddress(addr="fd00::5")
IA_NA, IA_PD = dhcp6.DHCP6OptIA_NA(iaid=7, ianaopts=[ADDRESS]), dhcp6.DHCP6OptIA_PD(iaid=8)
IA_TA = dhcp6.DHCP6OptIA_TA(iaid=9, iataopts=[ADDRESS])
HELD = IPv6Address("fd00::5")


def test_a_clients_message_is_read() -> None:
    wire = bytes(
        dhcp6.DHCP6_Request(trid=5) / CLIENT / SERVER / IA_NA / IA_PD / IA_TA / dhcp6.DHCP6OptOptReq(reqopts=[23, 24])
    )
    request = dhcpv6.read(wire)
    assert (request.kind, request.xid, list(request.wanted)) == (Kind.REQUEST, b"\0\0\5", [23, 24])
    assert request.options[Code.CLIENT_ID] == DUID
    assert list(request.associations) == [
        Association(Code.IA_NA, b"\0\0\0\7", (HELD,)),
        Association(Code.IA_PD, b"\0\0\0\x08", ()),
        Association(Code.IA_TA, b"\0\0\0\x09", (HELD,)),
    ]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (dhcp6.DHCP6_Advertise() / CLIENT / SERVER, "of a client"),
        (dhcp6.DHCP6_RelayForward(), "of a client"),
        (dhcp6.DHCP6_Solicit(), "without an identifier"),
        (dhcp6.DHCP6_Solicit() / CLIENT / SERVER, "for all servers"),
        (dhcp6.DHCP6_Confirm() / CLIENT / SERVER, "for all servers"),
        (dhcp6.DHCP6_Rebind() / CLIENT / SERVER, "for all servers"),
        (dhcp6.DHCP6_Request() / CLIENT, "for one server"),
        (dhcp6.DHCP6_Renew() / CLIENT, "for one server"),
        (dhcp6.DHCP6_Release() / CLIENT, "for one server"),
        (dhcp6.DHCP6_Decline() / CLIENT, "for one server"),
        (dhcp6.DHCP6_InfoRequest() / CLIENT / IA_NA, "no addresses"),
    ],
)
def test_what_lacks_what_its_type_needs_is_refused(message: object, complaint: str) -> None:
    with pytest.raises(Malformed, match=complaint):
        dhcpv6.read(bytes(message))  # type: ignore[call-overload]


def test_who_asks_for_information_only_needs_no_identifier() -> None:
    assert dhcpv6.read(bytes(dhcp6.DHCP6_InfoRequest())).kind == Kind.INFORMATION_REQUEST


SOLICIT = bytes(dhcp6.DHCP6_Solicit(trid=5) / CLIENT / IA_NA)


@pytest.mark.parametrize("length", [0, 3, 6, 9, 19, 25, 40, len(SOLICIT) - 1])
def test_what_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(Malformed):
        dhcpv6.read(SOLICIT[:length])


@given(st.one_of(st.binary(max_size=120), st.binary(max_size=60).map(lambda tail: SOLICIT[:18] + tail)))
def test_anything_is_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert isinstance(dhcpv6.read(payload), Request)


def test_scapy_reads_the_answer() -> None:
    request = dhcpv6.read(bytes(dhcp6.DHCP6_Request(trid=5) / CLIENT / SERVER / IA_NA / IA_PD / IA_TA))
    one, prefix, temporary = request.associations
    parts = (
        dhcpv6.leased(one, (HELD,), (IPv6Address("fd00::6"),), Times(100, 50, 80)),
        dhcpv6.refused(prefix, Status.NO_PREFIXES),
        dhcpv6.refused(temporary, Status.NO_ADDRESSES),
        dhcpv6.status(Status.SUCCESS, "well"),
    )
    reply = dhcp6.DHCP6_Reply(dhcpv6.write(request, Kind.REPLY, b"server", parts, {23: HELD.packed}))
    assert (reply.msgtype, reply.trid) == (Kind.REPLY, 5)
    assert bytes(reply[dhcp6.DHCP6OptClientId].duid) == DUID
    assert bytes(reply[dhcp6.DHCP6OptServerId].duid) == b"server"
    ia = reply[dhcp6.DHCP6OptIA_NA]
    assert (ia.iaid, ia.T1, ia.T2) == (7, 50, 80)
    assert [(it.addr, it.preflft, it.validlft) for it in ia.ianaopts] == [("fd00::5", 100, 100), ("fd00::6", 0, 0)]
    assert reply[dhcp6.DHCP6OptIA_PD].iapdopt[0].statuscode == Status.NO_PREFIXES
    assert reply[dhcp6.DHCP6OptIA_TA].iataopts[0].statuscode == Status.NO_ADDRESSES
    assert reply[dhcp6.DHCP6OptIA_TA].payload.statusmsg == b"well"
    assert reply[dhcp6.DHCP6OptDNSServers].dnsservers == ["fd00::5"]


def test_what_has_no_room_is_left_out() -> None:
    request = dhcpv6.read(SOLICIT)
    wire = dhcpv6.write(request, Kind.ADVERTISE, b"server", (), {100: bytes(900), 101: bytes(900), 102: b"last"})
    assert len(wire) <= 1232
    assert wire.endswith(dhcpv6.option(100, bytes(900)) + dhcpv6.option(102, b"last"))


@pytest.mark.parametrize(
    ("name", "value", "code", "encoded"),
    [
        ("dns-server", "[fd00::5],fd00::5", 23, HELD.packed * 2),
        ("option6:23", "fd00::5", 23, HELD.packed),
        ("domain-search", "a.b", 24, b"\1a\1b\0"),
        ("ntp-server", "fd00::5", 56, b"\0\1\0\x10" + HELD.packed),
        ("bootfile-url", "tftp://[fd00::5]/x", 59, b"tftp://[fd00::5]/x"),
        ("bootfile-param", "a,bc", 60, b"\0\1a\0\2bc"),
        ("information-refresh-time", "1h", 32, b"\0\0\x0e\x10"),
        ("tag:ipxe6,59", "x", 59, b"x"),
        ("200", "fd00::5", 200, HELD.packed),
        ("200", "01:02:03", 200, b"\1\2\3"),
        ("200", "77", 200, b"M"),
        ("200", "words", 200, b"words"),
        ("dns-server", "", 23, b""),
    ],
)
def test_values_become_bytes(name: str, value: str, code: int, encoded: bytes) -> None:
    setting = parse(name, value)
    assert setting is not None
    assert (setting.code, setting.value) == (code, encoded)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("router", "fd00::1", "no option of this name"),
        ("3", "1", "no option of this name"),
        ("0", "1", "no option of this name"),
        ("70000", "1", "no option of this name"),
        ("dns-server", "10.0.0.1", "no value for it"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(name: str, value: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(name, value)


@given(st.text(max_size=12), st.text(max_size=40))
def test_any_text_is_an_option_or_refused(name: str, value: str) -> None:
    for either in (name, "220", "56", "60"):
        with contextlib.suppress(ValueError):
            setting = parse(either, value)
            assert setting is None or 0 < setting.code < 65536


def test_clients_are_known_by_what_they_say() -> None:
    assert tags({Code.USER_CLASS: b"\0\4iPXE", Code.CLIENT_ARCH: b"\0\x07"}) == {"ipxe6", "arch-7"}
    assert tags({}) == frozenset()
    assert parse("client-id", "1") is None
