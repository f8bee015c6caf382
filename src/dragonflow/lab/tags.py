"""A guest that tags its frames: one interface on the host, and a namespace for each of the guest's VLANs.

Not every kernel has VLAN interfaces; those of containers often have none. So a bridge on the host's own Open vSwitch, which no
controller knows, stands in for the guest's kernel: what comes to the guest goes, without its tag, to the namespace of that tag.
Like a kernel's VLAN interface it learns no MACs: a frame under the guest's own MAC that reaches it from outside, as in a live
migration from the copy of it that already runs elsewhere, must not turn away what is for the guest.
"""

from __future__ import annotations

from collections.abc import Mapping

from dragonflow.lab import system
from dragonflow.lab.vswitch import VSwitch

INTERFACE = "eth0"


class TaggingGuest:
    """``ends`` says which namespace and MAC a tag's frames are for; of None those that bear no tag. The namespaces must exist.

    ``tap`` is the interface for the integration bridge (at most 14 characters), which somebody else is to plug.
    """

    def __init__(self, switch: VSwitch, tap: str, ends: Mapping[int | None, tuple[str, str]]) -> None:
        host = switch.netns
        assert host is not None
        self._switch, self._tap, self._host = switch, tap, host
        self._bridge, self._trunk = f"g{tap}", f"t{tap}"
        system.ip(host, f"link add {tap} type veth peer name {self._trunk}", *_up(tap), *_up(self._trunk))
        system.offload_off(host, tap, self._trunk)
        switch.add_bridge(self._bridge)
        switch.vsctl("add-port", self._bridge, self._trunk)
        for vlan, (netns, mac) in ends.items():
            self.add(vlan, netns, mac)

    def add(self, vlan: int | None, netns: str, mac: str) -> None:
        """One VLAN more."""
        end = f"{vlan or 0}{self._tap}"[:14]
        system.ip(netns, f"link add {INTERFACE} address {mac} type veth peer name {end} netns {self._host}")
        system.ip(self._host, *_up(end))
        system.offload_off(netns, INTERFACE)
        system.offload_off(self._host, end)
        system.ip(netns, f"link set {INTERFACE} up")
        self._switch.vsctl("add-port", self._bridge, end)
        if vlan is None:
            tag, strip, push = "vlan_tci=0", "", ""
        else:
            tag, strip, push = (
                f"dl_vlan={vlan}",
                "strip_vlan,",
                f"push_vlan:0x8100,set_field:{0x1000 | vlan}->vlan_vid,",
            )
        flows = (
            f"in_port={self._trunk},{tag} actions={strip}output:{end}",
            f"in_port={end} actions={push}output:{self._trunk}",
        )
        self._switch.ofctl("add-flows", self._bridge, "--names", "-", stdin="\n".join(flows))

    def remove(self) -> None:
        """Take all of it away but the namespaces, whose interfaces go with them."""
        self._switch.vsctl("--if-exists", "del-br", self._bridge)
        system.ip(self._host, f"link delete {self._tap}")


def _up(interface: str) -> tuple[str, str]:
    """Up, but without an address: the host itself is not to answer what the guest asks."""
    return f"link set {interface} addrgenmode none", f"link set {interface} up"
