"""Hosts whose Open vSwitches reach each other: a namespace each, on a bridge in one more, the fabric."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dragonflow.lab import system
from dragonflow.lab.vswitch import VSwitch

_serial = itertools.count()


@contextmanager
def bridged() -> Iterator[str]:
    """The fabric's namespace."""
    netns = f"dfu-{os.getpid()}-{next(_serial)}"
    system.netns_add(netns)
    try:
        system.ip(netns, "link add fabric type bridge mcast_snooping 0", "link set fabric mtu 9000 up")
        yield netns
    finally:
        system.netns_delete(netns)


@contextmanager
def machine(fabric: str, vtep: str) -> Iterator[VSwitch]:
    """A host on the fabric, with a running switch and its VTEP, in a network of 256 hosts, on the bridge ``br-phy``."""
    netns, link = f"dfu-{os.getpid()}-{next(_serial)}", f"u{next(_serial)}"
    switch = VSwitch(Path(tempfile.mkdtemp(prefix="dfu-")), netns)
    system.netns_add(netns)
    try:
        system.ip(
            fabric,
            f"link add {link} mtu 9000 type veth peer name underlay mtu 9000 netns {netns}",
            f"link set {link} master fabric up",
        )
        system.ip(netns, "link set underlay up")
        # The kernel sees what comes in by the bridge's port too, and would answer for the bridge's address with the port's MAC.
        system.sysctl(netns, {"net/ipv4/conf/all/arp_ignore": "1"})
        system.offload_off(fabric, link)
        system.offload_off(netns, "underlay")
        switch.start()
        switch.vsctl(
            *("add-br", "br-phy", "--", "set", "Bridge", "br-phy", "datapath_type=netdev", "fail_mode=standalone"),
            *("--", "add-port", "br-phy", "underlay"),
        )
        length, options = (120, "nodad") if ":" in vtep else (24, "")
        system.ip(netns, "link set br-phy mtu 9000 up", f"address add {vtep}/{length} dev br-phy {options}")
        yield switch
    finally:
        switch.remove()
        system.netns_delete(netns)
