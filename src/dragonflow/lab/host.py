"""The ground that hosts stand on: a fabric that joins them, and each host with its Open vSwitch, controller and metadata proxy.

::

    namespace LAB-fabric                     namespace LAB-host1
      bridge region1, 198.18.1.254 ── veth ── underlay ─ br-phy (VTEP 198.18.1.1)
      bridge region2, 198.18.2.254            br-int ◄── dragonflow controller ── 127.0.0.1 ── uplink ── the region's servers
      routes between them                       ║ ├ tap… ── veth ── eth0 in LAB-vm-…
                                                ║ └ df-metadata ── metadata proxy ── Nova's stand-in, 198.18.1.254:8775
      bridge physnet1 ─────────────── veth ── physical ─ br-ex                        (see ``physical``)

Nothing of it touches the machine's own network, so every lab uses the same addresses (198.18.0.0/15, RFC 2544).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dragonflow import secrecy
from dragonflow.lab import system, uplink
from dragonflow.lab.daemon import Daemon
from dragonflow.lab.physical import PHYSICAL_BRIDGE, PHYSICAL_NETWORK, PhysicalNetwork
from dragonflow.lab.system import LabError, wait_until
from dragonflow.lab.vswitch import VSwitch
from dragonflow.metadata.address import INTERFACE, PORT

INTEGRATION_BRIDGE = "br-int"
MAX_HOSTS = 250
MAX_REGIONS = 250
START_TIMEOUT = 20.0
UNDERLAY_MTU = 9000
"""Room for the tunnels' headers around a full frame."""


def vtep(region: int, host: int) -> str:
    """The tunnel address of a host; both count from 1."""
    return f"198.18.{region}.{host}"


def gateway(region: int) -> str:
    """The fabric's own address in a region's subnet."""
    return f"198.18.{region}.254"


def subnet(region: int) -> str:
    """The subnet in which a region's tunnel addresses are."""
    return f"198.18.{region}.0/24"


class Fabric:
    """A namespace with a bridge per region, and routing between the bridges; and with a physical network per region."""

    def __init__(self, netns: str, directory: Path) -> None:
        self.netns = netns
        self._switch = VSwitch(directory, netns)

    def up(self, regions: int) -> None:
        """Make it."""
        system.netns_add(self.netns)
        system.sysctl(self.netns, {"net/ipv4/ip_forward": "1"})
        self._switch.start()
        for region in range(1, regions + 1):
            system.ip(
                self.netns,
                f"link add region{region} type bridge",
                f"link set region{region} mtu {UNDERLAY_MTU} up",
                f"address add {gateway(region)}/24 dev region{region}",
            )
            self.physical(region).up()

    def physical(self, region: int) -> PhysicalNetwork:
        """A region's physical network. Each region calls its own ``physnet1``."""
        return PhysicalNetwork(self._switch, f"physnet{region}")


class Uplink:
    """The daemon that is a host's only way to the store; see ``uplink``."""

    def __init__(self, name: str, home: Path, directory: Path, netns: str, ports: Sequence[int]) -> None:
        self.name = name
        self._socket = directory / "uplink.sock"
        program = [sys.executable, uplink.__file__, str(system.NETNS_DIR / netns), str(self._socket), *map(str, ports)]
        self.daemon = Daemon(name, home, directory, program)

    def start(self) -> None:
        """Start it, open; returns when it listens."""
        self.daemon.start()
        wait_until(self._answers, f"{self.name} to listen", START_TIMEOUT)

    def _answers(self) -> bool:
        self.daemon.expect_alive()
        return self.mode is not None

    @property
    def mode(self) -> str | None:
        """``open``, ``blackhole`` or ``refused``; None: it doesn't run."""
        try:
            return uplink.turn(self._socket, "")
        except OSError:
            return None

    def turn(self, mode: str) -> None:
        """Cut or open it. :raises LabError: it doesn't run."""
        try:
            uplink.turn(self._socket, mode)
        except OSError as error:
            raise LabError(f"{self.name} does not answer ({error}); `dragonflow lab start {self.name}`") from None


class Host:
    """One chassis: a namespace with Open vSwitch, joined to the fabric, and the controller that works there.

    ``region`` and ``index`` count from 1 and make its address; ``suffix`` ends the names of its processes; ``servers`` are the
    ports of the machine's loopback that it needs, which its uplink brings.
    """

    def __init__(
        self,
        name: str,
        *,
        region: int,
        index: int,
        netns: str,
        home: Path,
        directory: Path,
        suffix: str,
        servers: Sequence[int] = (),
    ) -> None:
        self.name, self.region, self.index, self.netns, self.directory = name, region, index, netns, directory
        self.vtep = vtep(region, index)
        self.switch = VSwitch(directory, netns)
        self.control_socket = directory / "controller.sock"
        self.config = directory / "dragonflow.conf"
        dragonflow = str(Path(sys.executable).with_name("dragonflow"))
        given = ("--config-file", str(self.config))
        self.controller = Daemon(
            f"controller{suffix}", home, directory, [dragonflow, "controller", *given], netns=netns
        )
        proxy = [dragonflow, "metadata-proxy", *given]
        self.metadata = Daemon(f"metadata{suffix}", home, directory, proxy, netns=netns)
        self.uplink = Uplink(f"uplink{suffix}", home, directory, netns, servers) if servers else None

    def configure(self, settings: Mapping[str, str]) -> None:
        """Write the controller's configuration: what all hosts share, and this host's own."""
        self.directory.mkdir(parents=True, exist_ok=True)
        own = {
            "host": self.name,
            "tunnel_ip": self.vtep,
            "integration_bridge": INTEGRATION_BRIDGE,
            "datapath_type": "netdev",
            "bridge_mappings": f"{PHYSICAL_NETWORK}:{PHYSICAL_BRIDGE}",
            "ovsdb_connection": f"unix:{self.switch.db_sock}",
            "openflow_connection": f"unix:{self.switch.openflow(INTEGRATION_BRIDGE)}",
            "control_socket": str(self.control_socket),
        }
        lines = "\n".join(f"{name} = {value}" for name, value in (dict(settings) | own).items())
        secrecy.write(self.config, f"[df]\n{lines}\n".encode())  # it holds the metadata secret

    def up(self, fabric: Fabric) -> None:
        """Make the namespace, the way to the fabric, and the switch with its bridges; the controller isn't started."""
        link = f"r{self.region}h{self.index}"
        system.netns_add(self.netns)
        if self.uplink is not None:
            self.uplink.start()
        system.ip(
            fabric.netns,
            f"link add {link} mtu {UNDERLAY_MTU} type veth peer name underlay mtu {UNDERLAY_MTU} netns {self.netns}",
            f"link set {link} master region{self.region} up",
        )
        system.ip(self.netns, "link set underlay up")
        system.offload_off(fabric.netns, link)
        system.offload_off(self.netns, "underlay")
        self.switch.start()
        self.switch.add_bridge(INTEGRATION_BRIDGE)
        self.switch.vsctl(
            *("add-br", "br-phy", "--", "set", "Bridge", "br-phy", "datapath_type=netdev", "fail_mode=standalone"),
            *("--", "add-port", "br-phy", "underlay"),
        )
        system.ip(
            self.netns,
            f"link set br-phy mtu {UNDERLAY_MTU} up",
            f"address add {self.vtep}/24 dev br-phy",
            f"route add default via {gateway(self.region)}",
        )
        fabric.physical(self.region).join(f"p{self.region}h{self.index}", self.netns, self.switch)

    def start_metadata(self) -> None:
        """Start the metadata proxy; returns when it listens."""
        self.metadata.start()
        wait_until(self._serves_metadata, f"{self.metadata.name} to listen", START_TIMEOUT)

    def _serves_metadata(self) -> bool:
        self.metadata.expect_alive()
        return INTERFACE in system.run(["ss", "-Htln", f"sport = {PORT}"], netns=self.netns)

    def down(self) -> None:
        """Stop everything that runs here; the namespace stays."""
        self.controller.kill()
        self.metadata.kill()
        if self.uplink is not None:
            self.uplink.daemon.kill()
        self.switch.stop_vswitchd(kill=True)
        self.switch.stop_ovsdb(kill=True)
        shutil.rmtree(self.directory, ignore_errors=True)
