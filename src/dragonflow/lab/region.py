"""One region: its SQL database, Neutron, DF DB, message bus, Nova stand-in, and its hosts; and the parts of it one can fault.

A fault is a SIGKILL, a clean stop and a start of one process. SQLite's DF DB has no process: its fault moves the files away,
which each of its users sees as an outage, and back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dragonflow.lab.daemon import Daemon
from dragonflow.lab.host import Fabric, Host
from dragonflow.lab.mariadb import MariaDB
from dragonflow.lab.neutron import Neutron
from dragonflow.lab.process import Process, Server
from dragonflow.lab.state import RegionState
from dragonflow.lab.system import LabError, wait_until
from dragonflow.observe.control import ControlError, ask

CHASSIS_TIMEOUT = 60.0


class SQLiteStore:
    """The DF DB in a file; available while its directory lies where everybody looks for it."""

    pid = None
    log = None

    def __init__(self, directory: Path) -> None:
        self._here = directory / "dfdb"
        self._away = directory / "dfdb.away"
        self.url = f"sqlite://{self._here / 'dfdb.sqlite'}"

    def make(self) -> None:
        """Make its directory."""
        self._here.mkdir(parents=True, exist_ok=True)

    def kill(self) -> None:
        """Take it away: whoever reads or writes it from now on finds that it is gone."""
        if self._here.exists():
            self._here.rename(self._away)

    stop = kill

    def start(self) -> None:
        """Put it back, with all that was in it."""
        if self._away.exists():
            self._away.rename(self._here)


class SwitchDaemon:
    """One of the two daemons of a host's Open vSwitch: ``ovs-vswitchd`` or ``ovsdb-server``."""

    def __init__(self, host: Host, daemon: str) -> None:
        switch = host.switch
        self._switch, self._name = switch, daemon
        self._stop = switch.stop_vswitchd if daemon == "ovs-vswitchd" else switch.stop_ovsdb
        self.start = switch.start_vswitchd if daemon == "ovs-vswitchd" else switch.start_ovsdb

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._switch.pids.get(self._name)

    @property
    def log(self) -> Path:
        """Where it logs."""
        return self._switch.logs[self._name]

    def kill(self) -> None:
        """SIGKILL."""
        self._stop(kill=True)

    def stop(self) -> None:
        """SIGTERM. The data path in user space goes with ovs-vswitchd."""
        self._stop()


class Region:
    """A region as its state describes it; nothing runs before ``up``.

    ``several`` says that the lab has more than one region, so that what carries its name says of which one it is.
    """

    def __init__(self, lab: str, state: RegionState, home: Path, *, several: bool) -> None:
        self.name, self.index = state.name, state.index
        self.directory = home / state.name
        tail = f"-{state.name}" if several else ""
        self.store = SQLiteStore(self.directory)
        self.mariadb = MariaDB(f"mariadb{tail}", home, self.directory)
        self.neutron = Neutron(f"neutron{tail}", home, self.directory, state.neutron_port)
        self.nova_port = state.nova_port
        self.nova_events = self.directory / "nova-events.jsonl"
        nova = [sys.executable, "-m", "dragonflow.lab.nova", str(self.nova_port), str(self.nova_events)]
        self.nova = Daemon(f"nova{tail}", home, self.directory, nova)
        self.hosts = {
            name: Host(
                name,
                region=state.index,
                index=number,
                netns=f"{lab}{tail}-{name}",
                home=home,
                directory=self.directory / name,
                suffix=f"{tail}-{name}",
            )
            for number, name in enumerate(state.hosts, 1)
        }
        self.processes: dict[str, Process] = {
            f"neutron{tail}": Server(self.neutron.daemon, self.neutron.start),
            f"mariadb{tail}": Server(self.mariadb.daemon, self.mariadb.start),
            f"nova{tail}": Server(self.nova, self._start_nova),
            f"store{tail}": self.store,
        }
        for host in self.hosts.values():
            self.processes |= {
                host.controller.name: Server(host.controller, lambda host=host: self._start_controller(host)),  # type: ignore[misc]
                f"ovs{tail}-{host.name}": SwitchDaemon(host, "ovs-vswitchd"),
                f"ovsdb{tail}-{host.name}": SwitchDaemon(host, "ovsdb-server"),
            }

    @property
    def settings(self) -> dict[str, str]:
        """What the driver and the controllers share of the group [df]."""
        return {"store_url": self.store.url, "pubsub_url": f"zmq+ipc://{self.directory / 'pubsub'}"}

    def up(self, fabric: Fabric, progress: Callable[[str], None]) -> None:
        """Bring it up; returns when Neutron answers and shows every host's agent alive."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.store.make()
        (self.directory / "pubsub").mkdir(exist_ok=True)
        with ThreadPoolExecutor() as pool:
            sql = pool.submit(self._start_neutron)
            hosts = [pool.submit(self._start_host, host, fabric) for host in self.hosts.values()]
            for each in hosts:
                each.result()
            progress(f"{self.name}: {len(hosts)} hosts with Open vSwitch and a controller")
            sql.result()
        progress(f"{self.name}: MariaDB with Neutron's schema, and a Nova stand-in")
        self.neutron.wait()
        progress(f"{self.name}: Neutron answers at {self.neutron.url}")
        self.wait_for_agents()
        progress(f"{self.name}: Neutron sees every chassis alive")

    def _start_neutron(self) -> None:
        self._start_nova()
        self.mariadb.start()
        self.neutron.configure(sql_url=self.mariadb.url, nova_port=self.nova_port, driver=self.settings)
        self.neutron.start(wait=False)

    def _start_nova(self) -> None:
        self.nova.start()
        wait_until(self._nova_ready, f"{self.nova.name} to listen", 20)

    def _nova_ready(self) -> bool:
        self.nova.expect_alive()
        return self.nova_events.exists()

    def _start_host(self, host: Host, fabric: Fabric) -> None:
        host.configure(self.settings)
        host.up(fabric)
        host.controller.start()

    def _start_controller(self, host: Host) -> None:
        host.controller.start()
        wait_until(lambda: self._controller_ready(host), f"{host.controller.name} to answer", 30)

    @staticmethod
    def _controller_ready(host: Host) -> bool:
        host.controller.expect_alive()
        try:  # the socket's file alone may be a killed controller's
            ask(str(host.control_socket), "status")
        except ControlError:
            return False
        return True

    def wait_for_agents(self, timeout: float = CHASSIS_TIMEOUT) -> None:
        """Wait until Neutron's agent list shows every host alive: from then on ports can be bound there."""
        with self.neutron.client() as neutron:

            def all_alive() -> bool:
                for host in self.hosts.values():
                    host.controller.expect_alive()
                agents = neutron.get("/agents").json()["agents"]
                return set(self.hosts) <= {agent["host"] for agent in agents if agent["alive"]}

            wait_until(all_alive, f"agents of {', '.join(self.hosts)} to be alive in Neutron", timeout, 0.1)

    def down(self) -> None:
        """End all its processes, most dependent first."""
        daemons = [
            self.neutron.daemon,
            self.nova,
            *(host.controller for host in self.hosts.values()),
            self.mariadb.daemon,
        ]
        for daemon in daemons:
            daemon.kill()
        for host in self.hosts.values():
            host.down()

    def process(self, name: str) -> Process:
        """:raises LabError: there is none of that name."""
        if name not in self.processes:
            raise LabError(f"no process {name!r} in {self.name}")
        return self.processes[name]
