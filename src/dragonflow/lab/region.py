"""One region: its SQL database, Neutron, DF DB, message bus, Nova stand-in, and its hosts; and the parts of it one can fault."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dragonflow.lab import nova_metadata, system
from dragonflow.lab.daemon import Daemon, session_of
from dragonflow.lab.faults import Disk, Loss, leader_pid, wrong_clock
from dragonflow.lab.host import Fabric, Host, gateway
from dragonflow.lab.mariadb import MariaDB
from dragonflow.lab.neutron import Neutrons
from dragonflow.lab.process import Group, Process, Server
from dragonflow.lab.servers import DISK, Etcd, Room, SQLite, servers_of
from dragonflow.lab.state import RegionState, State
from dragonflow.lab.system import LabError, wait_until
from dragonflow.observe.control import ControlError, ask

CHASSIS_TIMEOUT = 60.0


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
    """A region as the lab's state describes it; nothing runs before ``up``.

    In a lab with several regions, what carries a name says of which one it is.
    """

    def __init__(self, lab: State, state: RegionState, home: Path) -> None:
        self.name, self.index = state.name, state.index
        self.directory = home / state.name
        tail = f"-{state.name}" if len(lab.regions) > 1 else ""
        self.disk = None if lab.disk is None or lab.store != "redis" else Disk(self.directory / DISK, lab.disk)
        self.store, self.bus = servers_of(lab, state, home, self.directory, tail)
        self.room: Room | None = self.store if isinstance(self.store, Etcd) and lab.disk is not None else self.disk
        self.loss = Loss(self.directory / "loss") if lab.lossy else None
        self.mariadb = MariaDB(f"mariadb{tail}", home, self.directory)
        self.neutrons = Neutrons(f"neutron{tail}", home, self.directory, state.neutron_ports)
        self.neutron = self.neutrons.first
        self.nova_port = state.nova_port
        self.nova_events = self.directory / "nova-events.jsonl"
        nova = [sys.executable, "-m", "dragonflow.lab.nova", str(self.nova_port), str(self.nova_events)]
        self.nova = Daemon(f"nova{tail}", home, self.directory, nova)
        self._metadata_secret = f"the secret of {lab.name}"
        program = [sys.executable, nova_metadata.__file__, gateway(state.index), str(nova_metadata.PORT)]
        self.nova_metadata = Daemon(
            f"nova-metadata{tail}",
            home,
            self.directory,
            [*program, self._metadata_secret],
            netns=f"{lab.name}-fabric",
        )
        self.hosts = {
            name: Host(
                name,
                region=state.index,
                index=number,
                netns=f"{lab.name}{tail}-{name}",
                home=home,
                directory=self.directory / name,
                suffix=f"{tail}-{name}",
                servers=tuple(dict.fromkeys((*self.store.ports, *self.bus.ports))),
            )
            for number, name in enumerate(state.hosts, 1)
        }
        self.processes = self._processes(tail)

    def _processes(self, tail: str) -> dict[str, Process]:
        found: dict[str, Process] = dict(self.neutrons.processes)
        if len(found) > 1:
            found = {self.neutrons.name: Group(self.neutrons)} | found
        found |= {
            f"mariadb{tail}": Server(self.mariadb.daemon, self.mariadb.start),
            f"nova{tail}": Server(self.nova, self._start_nova),
            self.nova_metadata.name: Server(self.nova_metadata, self._start_nova_metadata),
            f"store{tail}": self.store if isinstance(self.store, SQLite) else Group(self.store),
        }
        if self.bus is not self.store and self.bus.processes:
            found[f"bus{tail}"] = Group(self.bus)
        found |= self.store.processes
        found |= self.bus.processes
        for host in self.hosts.values():
            found |= {
                host.controller.name: Server(host.controller, lambda host=host: self.start_controller(host)),  # type: ignore[misc]
                host.metadata.name: Server(host.metadata, host.start_metadata),
                f"ovs{tail}-{host.name}": SwitchDaemon(host, "ovs-vswitchd"),
                f"ovsdb{tail}-{host.name}": SwitchDaemon(host, "ovsdb-server"),
            }
            if host.uplink is not None:
                found[host.uplink.name] = Server(host.uplink.daemon, host.uplink.start)
        return found

    @property
    def settings(self) -> dict[str, str]:
        """What the driver and the controllers share of the group [df]."""
        bus = self.bus.url if self.loss is None else self.loss.url(self.bus.url)
        return {"store_url": self.store.url, "pubsub_url": bus}

    @property
    def _of_hosts(self) -> dict[str, str]:
        """The group [df] of all its hosts."""
        metadata = {
            "metadata_proxy_shared_secret": self._metadata_secret,
            "nova_metadata_host": gateway(self.index),
            "nova_metadata_port": str(nova_metadata.PORT),
        }
        return self.settings | metadata

    def up(self, fabric: Fabric, progress: Callable[[str], None]) -> None:
        """Bring it up; returns when Neutron answers and shows every host's agent alive."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "pubsub").mkdir(exist_ok=True)
        with ThreadPoolExecutor() as pool:
            store = pool.submit(self._start_servers)
            neutron = pool.submit(self._start_neutrons)
            hosts = [pool.submit(host.up, fabric) for host in self.hosts.values()]
            store.result()
            for each in hosts:
                each.result()
            for host in self.hosts.values():
                host.configure(self._of_hosts)
                host.controller.start()
                host.metadata.start()
            progress(
                f"{self.name}: the DF DB at {self.store.url}, {len(hosts)} hosts with Open vSwitch and a controller"
            )
            neutron.result()
        progress(f"{self.name}: MariaDB with Neutron's schema, and a Nova stand-in")
        for server in self.neutrons:
            server.wait()
            progress(f"{self.name}: Neutron answers at {server.url}")
        self.wait_for_agents()
        for host in self.hosts.values():
            host.start_metadata()
        progress(f"{self.name}: Neutron sees every chassis alive")

    def _start_servers(self) -> None:
        if self.disk is not None:
            self.disk.mount()
        for each in {id(each): each for each in (self.store, self.bus)}.values():
            each.make()
            each.start()

    def _start_neutrons(self) -> None:
        self._start_nova()
        self._start_nova_metadata()
        self.mariadb.start()
        for server in self.neutrons:
            server.configure(sql_url=self.mariadb.url, nova_port=self.nova_port, driver=self.settings)
            server.start(wait=False)

    def _start_nova(self) -> None:
        self.nova.start()
        wait_until(self._nova_ready, f"{self.nova.name} to listen", 20)

    def _start_nova_metadata(self) -> None:
        self.nova_metadata.start()
        wait_until(self._nova_metadata_ready, f"{self.nova_metadata.name} to listen", 20)

    def _nova_metadata_ready(self) -> bool:
        self.nova_metadata.expect_alive()
        return bool(system.run(["ss", "-Htln", f"sport = {nova_metadata.PORT}"], netns=self.nova_metadata.netns))

    def _nova_ready(self) -> bool:
        self.nova.expect_alive()
        return self.nova_events.exists()

    def start_controller(self, host: Host, clock: str | None = None) -> None:
        """Start a controller; ``clock`` ("+1h") sets its clock off, but not what it measures time with."""
        host.controller.start({} if clock is None else wrong_clock(clock))
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

    def leader(self) -> tuple[str, int] | None:
        """Which Neutron server keeps the statuses, and the id of its process that does; None if nobody is known to."""
        pid = leader_pid(self.store.url)
        for name, server in self.neutrons.processes.items():
            if pid is not None and server.pid is not None and session_of(pid) == server.pid:
                return name, pid
        return None

    def roles(self) -> dict[str, str]:
        """Which processes are a ``leader`` or ``master`` now. A store that doesn't answer has nothing to say."""
        leader = self.leader()
        found = {} if leader is None else {leader[0]: "leader"}
        for each in (self.store, self.bus):
            if (first := each.first()) is not None:
                found[first] = "master" if first.startswith("redis") else "leader"
        return found

    def down(self) -> None:
        """End all its processes, most dependent first."""
        daemons = [
            *(server.daemon for server in self.neutrons),
            self.nova,
            self.nova_metadata,
            *(host.controller for host in self.hosts.values()),
            self.mariadb.daemon,
        ]
        for daemon in daemons:
            daemon.kill()
        for host in self.hosts.values():
            host.down()
        for each in (*self.bus.processes.values(), *self.store.processes.values()):
            each.kill()
        if self.disk is not None:
            self.disk.unmount()

    def process(self, name: str) -> Process:
        """:raises LabError: there is none of that name."""
        if name not in self.processes:
            raise LabError(f"no process {name!r} in {self.name}")
        return self.processes[name]
