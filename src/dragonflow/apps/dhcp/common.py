"""What both halves of the DHCP server need."""

from __future__ import annotations

from collections.abc import Iterator

from dragonflow.controller.view import View
from dragonflow.model import LogicalPort, Subnet

SERVER_MAC = bytes.fromhex("02df00000067")
"""The server's where no DHCP port lends it one: the same on every chassis."""


def subnets(port: LogicalPort, view: View) -> Iterator[tuple[str, Subnet]]:
    """The port's addresses, each with its subnet, as far as those are known."""
    for fixed in port.fixed_ips:
        subnet = view.get(Subnet, fixed.subnet)
        if subnet is not None:
            yield fixed.ip, subnet
