"""How a guest's packets look on their way between the integration bridge and the proxy: the flows write it, the proxy reads it.

Guests of different tenants have the same addresses, and all have the same link-local ones. So on that way a guest has an
address of its own, made of its port's key, which is unique in the region and never says anything but which port sent a packet:

- IPv4: 240.0.1.0 + key. 240.0.0.0/4 is reserved (RFC 1112 §4) and on no host's way to anything. Which of its port's addresses
  the guest used, is told by the proxy's address, 240.0.0.1 for the first, so that the way back needs no memory.
- IPv6: the prefix fddf:6d64::/32 (RFC 4193), 32 bits of key, and the interface identifier that the guest chose itself: it stays
  as it is, so the way back puts ``fe80::/64`` before it again.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from dragonflow.metadata.whose import Asker

INTERFACE = "df-metadata"
"""The name of the host's interface on the integration bridge."""

MAC = "02:df:00:00:a9:fe"
"""Its MAC; to guests it is the metadata server's too."""

PORT = 9697
"""The proxy's TCP port; guests use ``GUESTS_PORT``."""

GUESTS_IPV4, GUESTS_IPV6, GUESTS_PORT = IPv4Address("169.254.169.254"), IPv6Address("fe80::a9fe:a9fe"), 80
"""Where guests ask."""

HOSTS_IPV4, HOSTS_IPV6 = IPv4Address("240.0.0.1"), IPv6Address("fddf:6d64::1")
"""The interface's own addresses; of IPv4 it is the first of ``MOST_ADDRESSES``."""

MOST_ADDRESSES = 255
"""IPv4 addresses of one port that are told apart."""

_FIRST_IPV4 = int(IPv4Address("240.0.1.0"))
LAST_KEY = int(IPv4Address("255.255.255.254")) - _FIRST_IPV4
"""The last port key that has an IPv4 address here: ports beyond that have metadata by IPv6 alone."""


def ipv4_of(key: int) -> IPv4Address:
    """The address of the port's guest. :raises ValueError: the key is beyond ``LAST_KEY``."""
    if not 0 < key <= LAST_KEY:
        raise ValueError(f"key {key} is not within 1 … {LAST_KEY}")
    return IPv4Address(_FIRST_IPV4 + key)


def server_ipv4(index: int) -> IPv4Address:
    """The proxy's address for packets from the port's IPv4 address of this index. :raises ValueError: there are not so many."""
    if not 0 <= index < MOST_ADDRESSES:
        raise ValueError(f"index {index} is not within 0 … {MOST_ADDRESSES - 1}")
    return HOSTS_IPV4 + index


def ipv6_prefix_of(key: int) -> IPv6Address:
    """The /64 of the port's guest."""
    return IPv6Address(int(HOSTS_IPV6) - 1 | key << 64)


def asker(guest: str, server: str) -> Asker | None:
    """Who is behind a connection's two addresses, as the proxy sees them; None: nobody whom a flow lets through."""
    there, here = ip_address(guest), ip_address(server)
    if isinstance(there, IPv4Address) and isinstance(here, IPv4Address):
        key, index = int(there) - _FIRST_IPV4, int(here) - int(HOSTS_IPV4)
        return Asker(key, index) if 0 < key <= LAST_KEY and 0 <= index < MOST_ADDRESSES else None
    key = int(there) >> 64 & 0xFFFFFFFF
    return Asker(key, None) if key and int(there) >> 96 == int(HOSTS_IPV6) >> 96 and here == HOSTS_IPV6 else None
