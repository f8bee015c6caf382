"""The host's end of the way to guests: an interface that Open vSwitch makes and this module gives addresses, and its listeners.

Sockets are bound to the interface: nobody reaches them by another one, and they are in the way of no other server of the host.
Who restarts Open vSwitch may get another interface of the same name; sockets that are bound to the old one hear nothing any more.
"""

from __future__ import annotations

import logging
import socket
import subprocess

from dragonflow.metadata.address import HOSTS_IPV4, HOSTS_IPV6, INTERFACE, MAC, PORT

LOG = logging.getLogger(__name__)

BACKLOG = 256
"""Connections that may wait to be taken."""

_IPV4 = (
    f"link set dev {INTERFACE} address {MAC} arp off up",  # without ARP and ND: whatever is sent there is for the flows
    f"address replace {HOSTS_IPV4}/4 dev {INTERFACE}",
    f"route replace local {HOSTS_IPV4 - 1}/24 dev {INTERFACE}",  # all of ``address.server_ipv4``
)
_IPV6 = (f"address replace {HOSTS_IPV6}/32 dev {INTERFACE} nodad",)


def index() -> int | None:
    """The kernel's number of the interface; None while there is none."""
    try:
        return socket.if_nametoindex(INTERFACE)
    except OSError:
        return None


def configure() -> None:
    """Give the interface its MAC and addresses and switch it on; what is right already stays. Failures are logged."""
    for commands in (_IPV4, _IPV6):  # a host may have IPv6 switched off
        done = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(commands), capture_output=True, text=True, check=False
        )
        if done.returncode:
            LOG.warning("%s: %s", INTERFACE, done.stderr.strip())


def listeners() -> list[socket.socket]:
    """Listening sockets on the interface, for IPv4 and, if the host has it, IPv6. :raises OSError: the port is taken."""
    found = [_listen(socket.AF_INET, "0.0.0.0")]
    try:
        found.append(_listen(socket.AF_INET6, "::"))
    except OSError as error:
        LOG.warning("%s: no metadata by IPv6: %s", INTERFACE, error)
    return found


def _listen(family: socket.AddressFamily, address: str) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, INTERFACE.encode())
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, PORT))
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
