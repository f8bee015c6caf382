"""Places for VMs that are wired before anybody needs them, so that to plug and unplug there changes no link of the host.

Open vSwitch in user space keeps a copy of the kernel's routes, and at any change of any link in its namespace it empties the
copy and fills it again (``route_table_reset``; seen in 3.1). A flow that a revalidator looks at in between has no way out, and
drops what it gets until it is looked at again: so tunnels lose packets, of one flow or of all, for milliseconds on an idle
machine and many times that on a busy one. With the kernel's data path the kernel routes, and nothing of the kind happens. So
who counts packets while ports come and go plugs them into bays: then what is lost, Dragonflow has lost.
"""

from __future__ import annotations

import time

from dragonflow.lab import system
from dragonflow.lab.host import INTEGRATION_BRIDGE, Host
from dragonflow.lab.state import Known, Vm
from dragonflow.lab.vm import INTERFACE, attach, by_hand_alone, link, static


class Bay:
    """A namespace, and a link from there to a host, which take one VM after the other: ``vm`` is the one that is in it.

    ``name`` is what the host's end of the link is called, and with the host the namespace.
    """

    def __init__(self, host: Host, name: str, mtu: int) -> None:
        self.host, self.name = host, name
        self.netns = f"{host.netns}-{name}"
        self.vm: Vm | None = None
        link(host, self.netns, name, mtu)
        by_hand_alone(self.netns)
        # Of this kind a VM has none then: the kernel would make one of the MAC only when the link comes up.
        system.ip(self.netns, f"link set {INTERFACE} addrgenmode none up")
        # Open vSwitch would set it when it takes the port, which is a change of the link.
        system.ip(host.netns, f"link set {name} promisc on")

    def plug(self, known: Known, region: str) -> None:
        """Let the VM of a port in: it has the port's MAC and addresses at once, and is on the bridge on return."""
        port = known.port
        ips = tuple(fixed["ip_address"] for fixed in port["fixed_ips"])
        self.vm = Vm(port["id"], region, self.host.name, self.netns, port["mac_address"], ips, self.name, time.time())
        system.ip(
            self.netns,
            f"address flush dev {INTERFACE}",
            f"neighbour flush dev {INTERFACE}",
            f"link set {INTERFACE} address {self.vm.mac}",
            *static(self.vm, known.subnets),
        )
        attach(self.host, self.name, port)

    def unplug(self) -> None:
        """Take the interface off the bridge."""
        self.vm = None
        self.host.switch.vsctl("--if-exists", "del-port", INTEGRATION_BRIDGE, self.name)
