"""DHCP messages against scapy; and what is none."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from dragonflow.packet import Malformed, dhcpv4
from dragonflow.packet.dhcpv4 import Boot, Code, Kind, Request

MAC = bytes.fromhex("020000000001")


def message(*options: tuple[str | int, object] | str, **fields: object) -> bytes:
    """What scapy sends for a client."""
    return bytes(BOOTP(**{"op": 1, "chaddr": MAC, "xid": 7, **fields}) / DHCP(options=[*options, "end"]))


DISCOVER = message(("message-type", "discover"))


def test_a_clients_message_is_read() -> None:
    request = dhcpv4.read(
        message(
            ("message-type", "request"),
            ("requested_addr", "10.0.0.5"),
            ("param_req_list", [1, 3, 6]),
            ("max_dhcp_size", 1500),
            ("client_id", b"\1" + MAC),
            flags=0x8000,
            secs=3,
            ciaddr="10.0.0.9",
        )
    )
    assert (request.kind, request.xid, request.seconds, request.broadcast) == (Kind.REQUEST, 7, 3, True)
    assert (request.address, request.mac) == (IPv4Address("10.0.0.9"), MAC)
    assert request.address_option(Code.REQUESTED) == IPv4Address("10.0.0.5")
    assert request.address_option(Code.SERVER) is None
    assert list(request.wanted or ()) == [1, 3, 6]
    assert request.limit == 1472
    assert dhcpv4.read(DISCOVER).wanted is None
    assert dhcpv4.read(DISCOVER).limit == 548


def test_options_may_be_split_and_lie_in_the_headers_fields() -> None:
    overloaded = message(
        ("message-type", "discover"),
        (int(Code.USER_CLASS), b"one"),
        ("dhcp-option-overload", 3),
        file=bytes((Code.USER_CLASS, 3)) + b"two" + b"\xff",
        sname=b"\0\0" + bytes((Code.HOST_NAME, 2)) + b"me" + b"\xff",
    )
    assert dhcpv4.read(overloaded).options[Code.USER_CLASS] == b"onetwo"
    assert dhcpv4.read(overloaded).options[Code.HOST_NAME] == b"me"


def spoiled(at: int, value: int) -> bytes:
    return DISCOVER[:at] + bytes((value,)) + DISCOVER[at + 1 :]


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "no DHCP message"),
        (DISCOVER[:239], "no DHCP message"),
        (spoiled(0, 2), "no DHCP request"),
        (spoiled(1, 6), "no DHCP request"),
        (spoiled(2, 7), "no DHCP request"),
        (spoiled(236, 0), "no DHCP request"),
        (spoiled(24, 10), "from a relay"),
        (spoiled(241, 200), "cut short"),
        (spoiled(242, 0), "no DHCP message type"),
        (spoiled(242, 9), "no DHCP message type"),
        (message(("hostname", b"me")), "no DHCP message type"),
        (DISCOVER[:240] + b"\x35", "cut short"),
    ],
)
def test_what_is_no_clients_message_is_refused(payload: bytes, complaint: str) -> None:
    with pytest.raises(Malformed, match=complaint):
        dhcpv4.read(payload)


@given(st.one_of(st.binary(max_size=400), st.binary(max_size=200).map(lambda tail: DISCOVER[:240] + tail)))
def test_anything_is_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert isinstance(dhcpv4.read(payload), Request)


@given(
    st.dictionaries(
        st.integers(1, 254).filter(lambda code: code not in (Code.KIND, Code.OVERLOAD)),
        st.binary(max_size=90),
        max_size=4,
    ),
    st.booleans(),
)
def test_scapy_reads_the_answer(options: dict[int, bytes], broadcast: bool) -> None:
    request = dhcpv4.read(message(("message-type", "discover"), flags=0x8000 if broadcast else 0))
    boot = Boot(IPv4Address("10.0.0.1"), b"server", b"file")
    wire = dhcpv4.write(request, Kind.OFFER, options, yours=IPv4Address("10.0.0.5"), boot=boot)
    assert len(wire) >= 300
    read = BOOTP(wire)
    assert (read.op, read.htype, read.hlen, read.xid, read.chaddr[:6]) == (2, 1, 6, 7, MAC)
    assert (read.yiaddr, read.siaddr, read.ciaddr, read.giaddr) == ("10.0.0.5", "10.0.0.1", "0.0.0.0", "0.0.0.0")
    assert (read.sname.rstrip(b"\0"), read.file.rstrip(b"\0"), int(read.flags)) == (
        b"server",
        b"file",
        0x8000 * broadcast,
    )
    assert read[DHCP].options[0] == ("message-type", 2)
    assert dhcpv4.read(b"\1" + wire[1:]).options == {Code.KIND: bytes((2,)), **options}


def test_a_long_option_is_split_and_what_has_no_room_is_left_out() -> None:
    small = dhcpv4.read(DISCOVER)
    large = dhcpv4.read(message(("message-type", "discover"), ("max_dhcp_size", 1500)))
    options = {121: bytes(range(250)) * 2, 15: b"domain"}
    assert dhcpv4.read(b"\1" + dhcpv4.write(large, Kind.ACK, options)[1:]).options == {Code.KIND: b"\5", **options}
    cut = dhcpv4.write(small, Kind.ACK, options)
    assert len(cut) <= 548
    assert dhcpv4.read(b"\1" + cut[1:]).options == {Code.KIND: b"\5", 15: b"domain"}


def test_the_client_gets_its_identifier_back_and_a_nak_holds_no_address() -> None:
    request = dhcpv4.read(message(("message-type", "request"), ("client_id", b"\1" + MAC), ciaddr="10.0.0.9"))
    nak = BOOTP(dhcpv4.write(request, Kind.NAK, {}))
    assert ("client_id", b"\1" + MAC) in nak[DHCP].options
    assert nak.ciaddr == nak.yiaddr == "0.0.0.0"
    assert BOOTP(dhcpv4.write(request, Kind.ACK, {})).ciaddr == "10.0.0.9"
