"""Options as people write them."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonflow.packet.dhcp_options import Setting
from dragonflow.packet.dhcpv4 import Code
from dragonflow.packet.dhcpv4_options import NEXT_SERVER, parse, routes, tags


@pytest.mark.parametrize(
    ("name", "value", "code", "encoded"),
    [
        ("dns-server", "10.0.0.1, 10.0.0.2", 6, bytes((10, 0, 0, 1, 10, 0, 0, 2))),
        ("option:dns-server", "10.0.0.1", 6, bytes((10, 0, 0, 1))),
        ("6", "10.0.0.1", 6, bytes((10, 0, 0, 1))),
        ("mtu", "1400", 26, b"\x05\x78"),
        ("26", "0x578", 26, b"\x05\x78"),
        ("time-offset", "-3600", 2, b"\xff\xff\xf1\xf0"),
        ("T1", "2h", 58, (7200).to_bytes(4, "big")),
        ("lease-time", "infinite", 51, b"\xff" * 4),
        ("bootfile-name", "pxelinux.0", 67, b"pxelinux.0"),
        ("tftp-server", "10.0.0.1", 66, b"10.0.0.1"),
        ("150", "10.0.0.1", 150, bytes((10, 0, 0, 1))),
        ("server-ip-address", "10.0.0.1", NEXT_SERVER, bytes((10, 0, 0, 1))),
        ("255", "10.0.0.1", NEXT_SERVER, bytes((10, 0, 0, 1))),
        ("user-class", "ab,c", 77, b"\2ab\1c"),
        ("domain-search", "eng.example.org,b", 119, b"\3eng\7example\3org\0\1b\0"),
        (
            "classless-static-route",
            "10.9.0.0/17,10.0.0.1,0.0.0.0/0,10.0.0.2",
            121,
            bytes.fromhex("110a09000a000001000a000002"),
        ),
        ("249", "10.9.0.0/16,10.0.0.1", 249, bytes.fromhex("100a090a000001")),
        ("router", "", 3, b""),
        ("220", "01:02:ff", 220, b"\1\2\xff"),
        ("220", "300", 220, b"\x01\x2c"),
        ("220", "10.0.0.1,10.0.0.2", 220, bytes((10, 0, 0, 1, 10, 0, 0, 2))),
        ("220", "words, words", 220, b"words, words"),
    ],
)
def test_values_become_bytes(name: str, value: str, code: int, encoded: bytes) -> None:
    assert parse(name, value) == Setting(code, encoded)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("nonsense", "1", "no option of this name"),
        ("53", "5", "no option of this name"),
        ("0", "5", "no option of this name"),
        ("300", "5", "no option of this name"),
        ("dns-server", "2001:db8::1", "no value for it"),
        ("mtu", "70000", "no value for it"),
        ("mtu", "many", "no value for it"),
        ("T1", "soon", "no time"),
        ("domain-search", "a..b", "no domain name"),
        ("classless-static-route", "10.0.0.0/8", "pairs"),
        ("root-path", "x" * 2000, "too long"),
        ("router,6", "10.0.0.1", "conditions"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(name: str, value: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(name, value)


def test_options_may_be_for_some_clients() -> None:
    ipxe, others = parse("tag:ipxe,67", "http://boot"), parse("tag:!ipxe,tag:arch-7,67", "efi")
    assert ipxe is not None
    assert others is not None
    for known, expected in (
        ({"ipxe"}, (True, False)),
        ({"arch-7"}, (False, True)),
        ({"ipxe", "arch-7"}, (True, False)),
    ):
        assert (ipxe.applies(frozenset(known)), others.applies(frozenset(known))) == expected


def test_how_to_know_a_client_is_nothing_that_it_is_told() -> None:
    assert parse("client-id", "01:02") is None
    assert parse("61", "01:02") is None


def test_clients_are_known_by_what_they_say() -> None:
    assert tags({}) == frozenset()
    assert tags({Code.ETHERBOOT: b"x", Code.CLIENT_ARCH: b"\0\7"}) == {"ipxe", "arch-7"}
    assert tags({Code.USER_CLASS: b"iPXE", Code.CLIENT_ARCH: b"\0"}) == {"ipxe"}


@given(
    st.one_of(st.sampled_from(["router", "67", "121", "T1", "119", "220", "tag:a,3"]), st.text(max_size=12)),
    st.text(max_size=40),
)
def test_any_text_is_an_option_or_refused(name: str, value: str) -> None:
    with contextlib.suppress(ValueError):
        setting = parse(name, value)
        assert setting is None or 0 < setting.code <= NEXT_SERVER


def test_routes_hold_only_the_bytes_that_count() -> None:
    pairs = [(IPv4Network("10.0.0.0/8"), IPv4Address("10.1.1.1")), (IPv4Network("0.0.0.0/0"), IPv4Address(0))]
    assert routes(pairs) == bytes((8, 10, 10, 1, 1, 1, 0, 0, 0, 0, 0))
