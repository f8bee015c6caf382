"""What the flows write is what the proxy reads."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonflow.metadata import address
from dragonflow.metadata.address import Asker, asker

keys = st.integers(1, address.LAST_KEY)


@given(keys, st.integers(0, address.MOST_ADDRESSES - 1))
def test_an_ipv4_address_leads_back_to_the_port_and_its_address(key: int, nth: int) -> None:
    assert asker(str(address.ipv4_of(key)), str(address.server_ipv4(nth))) == Asker(key, nth)
    assert address.ipv4_of(key) in ip_network("240.0.0.0/4")
    assert address.ipv4_of(key) != address.server_ipv4(nth)


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**64 - 1))
def test_an_ipv6_address_leads_back_to_the_port_whatever_the_guest_chose(key: int, chosen: int) -> None:
    guest = IPv6Address(int(address.ipv6_prefix_of(key)) | chosen)
    assert asker(str(guest), str(address.HOSTS_IPV6)) == Asker(key, None)


@pytest.mark.parametrize(
    ("guest", "server"),
    [
        ("10.0.0.1", "240.0.0.1"),
        ("240.0.0.9", "240.0.0.1"),  # the host's own
        ("240.0.1.11", "10.0.0.1"),
        ("240.0.1.11", "240.0.1.0"),
        ("fddf:6d64::9", "fddf:6d64::1"),  # the host's own
        ("fe80::1", "fddf:6d64::1"),
        ("fddf:6d64:0:b::1", "fddf:6d64::2"),
    ],
)
def test_others_are_nobody(guest: str, server: str) -> None:
    assert asker(guest, server) is None


@pytest.mark.parametrize("key", [0, -1, address.LAST_KEY + 1])
def test_keys_out_of_range_are_refused(key: int) -> None:
    with pytest.raises(ValueError, match="not within"):
        address.ipv4_of(key)


def test_there_are_so_many_addresses_of_a_port() -> None:
    with pytest.raises(ValueError, match="not within"):
        address.server_ipv4(address.MOST_ADDRESSES)
