"""The host's end of the way to guests: an interface that Open vSwitch makes and this module gives addresses, and its listeners.

Sockets are bound to the interface: nobody reaches them by another one, and they are in the way of no other server of the host.
Who restarts Open vSwitch may get another interface of the same name; sockets that are bound to the old one hear nothing any more.
"""

from __future__ import annotations

import socket
import subprocess
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from dragonflow.metadata.address import HOSTS_IPV4, HOSTS_IPV6, INTERFACE, MAC, PORT

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


def ensure() -> None:
    """Give the interface its MAC and addresses and switch it on, if something of that is missing.

    What is right is left alone: each change of a host's addresses and routes makes Open vSwitch in user space read them anew.

    :raises OSError: it can't be done.
    """
    families: list[tuple[tuple[str, ...], IPv4Address | IPv6Address]] = [(_IPV4, HOSTS_IPV4 + 1)]
    if _has_ipv6():
        families.append((_IPV6, HOSTS_IPV6))
    for commands, address in families:
        if not _is_ours(address):
            batch = "\n".join(commands)
            done = subprocess.run(["ip", "-batch", "-"], input=batch, capture_output=True, text=True, check=False)
            if done.returncode:
                raise OSError(f"ip: {done.stderr.strip()}")


def _is_ours(address: IPv4Address | IPv6Address) -> bool:
    """Whether the host takes packets to the address for its own."""
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
        return True


def _has_ipv6() -> bool:
    """Whether the host has IPv6 on the interface."""
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{INTERFACE}/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


def listeners() -> list[socket.socket]:
    """Listening sockets on the interface, for IPv4 and, if the host has it, IPv6. :raises OSError: the port is taken."""
    families = [(socket.AF_INET, "0.0.0.0"), *([(socket.AF_INET6, "::")] if _has_ipv6() else [])]
    return [_listen(*it) for it in families]


def waiting() -> int | None:
    """How many connections wait for whoever listens on the interface to take them; None: nobody listens there.

    Asked in the namespace of the host (``ss``, which shows a listener's backlog). :raises OSError: it doesn't say.
    """
    done = subprocess.run(["ss", "-Hltn", f"sport = :{PORT}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ss: {done.stderr.strip()}")
    found = [fields for line in done.stdout.splitlines() if len(fields := line.split()) > 3]
    queues = [int(queue) for _state, queue, _most, address, *_ in found if f"%{INTERFACE}:" in address]
    return sum(queues) if queues else None


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
