"""A whole lab: bring it up, plug VMs, break it, ask it, take it down.

All a lab is lies under /var/lib/dragonflow-lab/NAME, in network namespaces NAME-…, and in processes recorded there. So the
object is only a view: any process may make another one with ``Lab.open``, and ``clean`` needs nothing but the name.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec

from dragonflow.lab import shape, state, system
from dragonflow.lab.between import ALL, Between
from dragonflow.lab.daemon import end_all, marked, started_at
from dragonflow.lab.host import INTEGRATION_BRIDGE, Fabric, Host, Uplink
from dragonflow.lab.migration import Migrated, migrate
from dragonflow.lab.process import Process
from dragonflow.lab.region import Region
from dragonflow.lab.servers import Room
from dragonflow.lab.state import Known, Vm
from dragonflow.lab.system import LabError, listed
from dragonflow.lab.uplink import BLACKHOLE, OPEN, REFUSED
from dragonflow.lab.vm import Address, give_address, plug, remove, unplug

DEFAULT_NAME = "lab"
Progress = Callable[[str], None]


def _silent(_: str) -> None:
    pass


class Lab:
    """A lab that is up. Make one with ``Lab.up`` or ``Lab.open``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.home = state.home_of(name)
        self._state = state.load(name)
        self.regions = {each.name: Region(self._state, each, self.home) for each in self._state.regions}
        self.between = Between(self._state, self.home, self.regions, self._fabric.netns)

    @classmethod
    def open(cls, name: str = DEFAULT_NAME) -> Lab:
        """Take hold of a lab that is up.

        :raises LabError: there is none of that name, or it is only being brought up.
        """
        system.require_root("dragonflow lab")
        lab = cls(name)
        if lab._state.maker is not None:
            raise LabError(
                f"lab {name!r} is not up: its `up` is still at work or failed; `dragonflow lab up` starts anew"
            )
        return lab

    @classmethod
    def up(
        cls,
        name: str = DEFAULT_NAME,
        *,
        hosts: int = 3,
        store: str = "sqlite",
        bus: str = "zmq",
        regions: int = 1,
        neutron_servers: int = 1,
        orchestrators: int | None = None,
        lossy: bool = False,
        disk: int | None = None,
        progress: Progress = _silent,
    ) -> Lab:
        """Bring a lab up, after cleaning away what a crashed one of that name left.

        Without another word several regions get one of the ``orchestrators``, and one region none.

        ``lose`` needs a ``lossy`` one, and ``fill_disk`` one whose store has a ``disk`` of its own, of so many MiB: for Redis a
        real one, in memory, and for etcd its quota.

        :raises LabError: it is up already, or can't be brought up; then nothing of it stays but its directory's logs.
        """
        system.require_root("dragonflow lab")
        orchestrators = int(regions > 1) if orchestrators is None else orchestrators
        numbers = {
            "hosts": hosts,
            "regions": regions,
            "neutron_servers": neutron_servers,
            "orchestrators": orchestrators,
        }
        shape.check(store, bus, disk, **numbers)
        with state.locked(name):
            _refuse_living(name)
            if clean(name):
                progress(f"cleaned away what an earlier lab {name!r} had left")
            with state.allocating():
                maker = (os.getpid(), started_at(os.getpid()) or 0)
                planned = msgspec.structs.replace(
                    shape.planned(name, store, bus, **numbers), lossy=lossy, disk=disk, maker=maker
                )
                state.save(planned)
            lab = cls(name)
            try:
                lab._bring_up(progress)
            except BaseException:
                progress(f"lab {name!r} did not come up; its logs are kept in {_keep_logs(lab)}")
                clean(name, logs=False)
                raise
            state.save(msgspec.structs.replace(planned, maker=None))
        return cls(name)

    @property
    def _fabric(self) -> Fabric:
        return Fabric(f"{self.name}-fabric", self.home / "fabric")

    def _bring_up(self, progress: Progress) -> None:
        fabric = self._fabric
        fabric.up(len(self.regions))
        with ThreadPoolExecutor() as pool:
            for each in [pool.submit(region.up, fabric, progress) for region in self.regions.values()]:
                each.result()
        self.between.up(progress)

    def down(self) -> None:
        """Take it down: no process, namespace or file of it stays."""
        with state.locked(self.name):
            clean(self.name)

    # What is there

    @property
    def vms(self) -> dict[str, Vm]:
        """The plugged VMs by port id, as they are now."""
        return {each.port_id: each for each in state.load(self.name).vms}

    def region(self, name: str | None = None) -> Region:
        """A region by name; None means the first.

        :raises LabError: there is none of that name.
        """
        if name is None:
            return next(iter(self.regions.values()))
        if name not in self.regions:
            raise LabError(f"no region {name!r}; there are: {listed(self.regions)}")
        return self.regions[name]

    def host(self, name: str, region: str | None = None) -> Host:
        """A host by name.

        :raises LabError: there is none of that name in the region.
        """
        hosts = self.region(region).hosts
        if name not in hosts:
            raise LabError(f"no host {name!r} in {self.region(region).name}; there are: {listed(hosts)}")
        return hosts[name]

    def vm(self, port_id: str) -> Vm:
        """A plugged VM by its port's id, or by as much of it as names one alone.

        :raises LabError: none is plugged, or several fit.
        """
        vms = self.vms
        found = [vms[port_id]] if port_id in vms else [each for key, each in vms.items() if key.startswith(port_id)]
        if len(found) != 1 or not port_id:
            problem = "several plugged ports begin with" if found else "no plugged port"
            raise LabError(f"{problem} {port_id!r}; there are: {listed(vms)}")
        return found[0]

    def process(self, name: str) -> Process:
        """A process by the name that ``info`` shows.

        :raises LabError: there is none of that name.
        """
        processes = dict(self.between.processes)
        for region in self.regions.values():
            processes |= region.processes
        if name not in processes:
            raise LabError(f"no process {name!r}; there are: {listed(processes)}")
        return processes[name]

    def info(self) -> dict[str, Any]:
        """What ``dragonflow lab info --json`` prints. A process that doesn't run has the pid None, and most have no role."""
        return {
            "name": self.name,
            "clouds": str(self.between.clouds),
            "processes": _shown(self.between),
            "cuts": [cut._asdict() for cut in self.between.cuts()],
            "regions": [
                {
                    "name": region.name,
                    "neutron_url": region.neutron.url,
                    "dfdb_url": region.store.url,
                    "pubsub_url": region.settings["pubsub_url"],
                    "processes": _shown(region),
                    "hosts": [
                        {
                            "name": host.name,
                            "netns": host.netns,
                            "vtep": host.vtep,
                            "ovsdb": f"unix:{host.switch.db_sock}",
                            "openflow": f"unix:{host.switch.openflow(INTEGRATION_BRIDGE)}",
                            "bridge": INTEGRATION_BRIDGE,
                            "uplink": None if host.uplink is None else host.uplink.mode,
                        }
                        for host in region.hosts.values()
                    ],
                }
                for region in self.regions.values()
            ],
            "vms": [
                {key: getattr(each, key) for key in ("port_id", "region", "host", "netns", "mac")}
                | {"ips": list(each.ips)}
                for each in self.vms.values()
            ],
        }

    # VMs

    def plug(
        self,
        port_id: str,
        host: str,
        *,
        region: str | None = None,
        address: Address = "static",
        warn: Progress = _silent,
    ) -> Vm:
        """Plug a VM for a Neutron port into a host, as os-vif would. A port without a host is bound to this one first.

        Says by ``warn`` what Nova would have done before.

        :raises LabError: no such port, host or region; plugged already; no DHCP server answered (the VM stays plugged).
        """
        place, there = self.region(region), self.host(host, region)
        port, subnets, mtu = _port(place, port_id)
        bound = port.get("binding:host_id")
        if not bound:
            port = _bind(place, port, host)
            warn(f"port {port_id} was bound to no host; bound it to {host}, as Nova does before it plugs")
        elif bound != host:
            warn(f"Neutron has bound port {port_id} to {bound}: it will not work before it is bound to {host}")
        netns = f"{self.name}-vm-{port_id[:11]}"
        with state.locked(self.name):
            if port_id in self.vms:
                raise LabError(f"port {port_id} is plugged already; `dragonflow lab unplug {port_id}` takes it out")
            remove(netns)  # what a plug that was killed half-way left
            try:
                made = plug(there, region=place.name, netns=netns, port=port, mtu=mtu)
            except BaseException:
                with contextlib.suppress(LabError):
                    remove(netns)
                raise
            self._remember_vms([*self.vms.values(), made])
        give_address(made, address, subnets, place.directory)
        return made

    def look_up(self, port_id: str, region: str | None = None) -> Known:
        """What a bay needs to know of a port. :raises LabError: there is no such port, or Neutron doesn't answer."""
        return _port(self.region(region), port_id)

    def unplug(self, port_id: str) -> None:
        """Take a VM out; its namespace and what runs in it go too.

        :raises LabError: it isn't plugged.
        """
        with state.locked(self.name):
            gone = self.vm(port_id)
            unplug(self.host(gone.host, gone.region), gone)
            self._remember_vms([each for each in self.vms.values() if each.port_id != gone.port_id])

    def migrate(self, port_id: str, host: str) -> Migrated:
        """Move a plugged VM to another host of its region while it runs, as Nova does; see ``migration``.

        :raises LabError: it isn't plugged, it is there already, or the migration failed: then it stays where it is.
        """
        vm = self.vm(port_id)
        place, there = self.region(vm.region), self.host(host, vm.region)
        if vm.host == host:
            raise LabError(f"port {vm.port_id} is on {host} already")
        known = _port(place, vm.port_id)
        netns = f"{self.name}-vm-{vm.port_id[:11]}-{host}"
        with state.locked(self.name):
            remove(netns)  # what a migration that was killed half-way left
            moved = migrate(place, known, vm, there, netns)
            self._remember_vms([moved.vm, *(each for each in self.vms.values() if each.port_id != vm.port_id)])
        return moved

    def _remember_vms(self, vms: Sequence[Vm]) -> None:
        state.save(msgspec.structs.replace(state.load(self.name), vms=tuple(vms)))

    # Machines on the physical network

    def peer(self, name: str, *addresses: str, vlan: int | None = None, region: str | None = None) -> str:
        """Make a machine on a region's physical network that Neutron knows nothing of; returns its namespace.

        ``addresses`` carry prefix lengths. It is untagged, or in a VLAN.

        :raises LabError: there is one of that name, or the name is none.
        """
        netns = self._netns_of_peer(name)
        place = self.region(region)
        with state.locked(self.name):
            if system.netns_exists(netns):
                raise LabError(f"there is a peer {name!r} already; `dragonflow lab unpeer {name}` removes it")
            self._fabric.physical(place.index).add_peer(f"q-{name}", netns, addresses, vlan)
        return netns

    def unpeer(self, name: str) -> None:
        """Remove a machine from the physical network, with all that runs in it. It may be gone already."""
        with state.locked(self.name):
            remove(self._netns_of_peer(name))

    def _netns_of_peer(self, name: str) -> str:
        if not re.fullmatch("[a-z][a-z0-9]{0,11}", name):
            raise LabError(f"{name!r}: a peer's name is a lower-case letter, then at most 11 letters and digits")
        return f"{self.name}-peer-{name}"

    # Commands inside

    def vm_command(self, port_id: str, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` in a VM."""
        return [*system.inside(self.vm(port_id).netns), *command]

    def host_command(self, host: str, command: Sequence[str], region: str | None = None) -> list[str]:
        """The command line that runs ``command`` in a host, where the tools of Open vSwitch find the host's own."""
        there = self.host(host, region)
        directory = there.switch.directory
        places = [f"OVS_{kind}DIR={directory}" for kind in ("RUN", "LOG", "DB", "SYSCONF")]
        return [*system.inside(there.netns), "env", *places, *command]

    def exec(self, port_id: str, *command: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in a VM to its end; the exit code is the caller's to look at."""
        return _call(self.vm_command(port_id, command), timeout)

    def host_exec(
        self, host: str, *command: str, region: str | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a host to its end; the exit code is the caller's to look at."""
        return _call(self.host_command(host, command, region), timeout)

    # Faults

    def start(self, process: str, *, clock: str | None = None) -> None:
        """Start a process again; of a controller also with its clock off by ``clock`` ("+1h"), until it is started anew.

        :raises LabError: there is none of that name, it is no controller, or it doesn't come up.
        """
        again = self.process(process)
        if clock is None:
            again.start()
            return
        for region in self.regions.values():
            for host in region.hosts.values():
                if host.controller.name == process:
                    if host.controller.pid is not None:
                        raise LabError(f"{process} runs; stop it before it is started with another clock")
                    region.start_controller(host, clock)
                    return
        raise LabError(f"{process} is no controller: only a controller's clock can be set off")

    def partition(self, host: str, *, region: str | None = None, mode: str = BLACKHOLE) -> None:
        """Cut a host off from the region's servers (see ``uplink``), until ``heal``.

        :raises LabError: nothing of the region is reached over the network, or the mode is none.
        """
        if mode not in (BLACKHOLE, REFUSED):
            raise LabError(f"no way {mode!r} to cut a host off; there are: {BLACKHOLE}, {REFUSED}")
        self._uplink(host, region).turn(mode)

    def heal(self, host: str, *, region: str | None = None) -> None:
        """Join a host again. :raises LabError: it can't be cut off."""
        self._uplink(host, region).turn(OPEN)

    def _uplink(self, host: str, region: str | None) -> Uplink:
        found = self.host(host, region).uplink
        if found is None:
            raise LabError(
                "this lab's hosts reach the DF DB by its file and the bus by Unix sockets, which no network can part: "
                "`dragonflow lab up --store etcd` (or redis) makes one whose hosts can be cut off"
            )
        return found

    def sever(self, one: str, other: str, what: str = ALL) -> None:
        """Cut two regions' underlays apart (see ``between``), until ``rejoin``. :raises LabError: no such regions or cut."""
        self.between.sever(self.region(one), self.region(other), what)

    def rejoin(self, one: str, other: str) -> None:
        """Let packets pass again between two regions. :raises LabError: there are none of these names."""
        self.between.rejoin(self.region(one), self.region(other))

    def lose(self, share: float, region: str | None = None) -> None:
        """Have every process lose such a share (0 to 1) of the messages it gets.

        :raises LabError: the lab is not ``lossy``, or the share is none.
        """
        loss = self.region(region).loss
        if loss is None:
            raise LabError("this lab's bus loses nothing: `dragonflow lab up --lossy` makes one that can be told to")
        loss.set(share)

    def fill_disk(self, region: str | None = None) -> None:
        """Leave no room for the store's data. :raises LabError: how much there is was not limited."""
        self._room(region).fill()

    def free_disk(self, region: str | None = None) -> None:
        """Make the room again. :raises LabError: how much there is was not limited."""
        self._room(region).free()

    def _room(self, region: str | None) -> Room:
        room = self.region(region).room
        if room is None:
            raise LabError("the store has no disk of its own: `dragonflow lab up --store redis --disk 64` gives it one")
        return room

    # What was said

    def nova_events(self, region: str | None = None) -> list[dict[str, Any]]:
        """What Nova was told so far, oldest first."""
        lines = self.region(region).nova_events.read_bytes().splitlines()
        return [msgspec.json.decode(line) for line in lines]


def _shown(region: Region | Between) -> list[dict[str, Any]]:
    roles = region.roles()
    return [
        {
            "name": name,
            "pid": process.pid,
            "role": roles.get(name),
            "log": None if process.log is None else str(process.log),
        }
        for name, process in region.processes.items()
    ]


def clean(name: str, *, logs: bool = True) -> bool:
    """End and remove whatever there is of a lab, whole or in pieces. Says whether there was anything.

    ``logs`` removes also the logs that are kept when a lab doesn't come up.

    Processes are known by the record of each, by the lab's mark in their environment, and by running in one of the lab's
    namespaces; none by its program's name.
    """
    home = state.home_of(name)
    spaces = list(_netns_of(name))
    found = home.exists() or bool(spaces)
    with contextlib.suppress(LabError):
        lab = Lab(name)
        lab.between.down()
        for region in lab.regions.values():
            region.down()
    strays = marked(home)
    for netns in spaces:
        strays |= system.netns_pids(netns)
    end_all(strays)
    for netns in spaces:
        system.netns_delete(netns)
    system.unmount_below(home)
    for directory in (home, _failed(name)) if logs else (home,):
        shutil.rmtree(directory, ignore_errors=True)
    return found


def _netns_of(name: str) -> Iterator[str]:
    """The lab's namespaces: of the fabric, of hosts, of bays, of VMs, of peers on physical networks."""
    pattern = re.compile(
        rf"{re.escape(name)}-(fabric|(region\d+-)?host\d+(-[a-z]+\d+)?|vm-[0-9a-f-]{{1,11}}(-host\d+)?"
        r"|peer-[a-z][a-z0-9]*)"
    )
    return (netns for netns in system.netns_names() if pattern.fullmatch(netns))


def _refuse_living(name: str) -> None:
    """:raises LabError: a lab of that name is up and something of it runs. One without processes is a crashed one."""
    try:
        lab = Lab(name)
    except LabError:
        return
    if lab._state.maker is not None:  # its `up` held the lock that we hold now, so it is dead
        return
    if any(process.pid for region in lab.regions.values() for process in region.processes.values()):
        raise LabError(f"lab {name!r} is up already; `dragonflow lab down --name {name}` takes it down")


def _port(region: Region, port_id: str) -> Known:
    """A port and what belongs to it, as the administrator sees them."""
    try:
        with region.neutron.client() as neutron:
            port = neutron.get(f"/ports/{port_id}").json()["port"]
            subnets = neutron.get("/subnets", params={"network_id": port["network_id"]}).json()["subnets"]
            network = neutron.get(f"/networks/{port['network_id']}").json()["network"]
    except httpx.HTTPError as error:
        raise LabError(f"port {port_id} in {region.name}: {error}") from error
    return Known(port, subnets, network["mtu"])


def _bind(region: Region, port: dict[str, Any], host: str) -> dict[str, Any]:
    """Bind a port to a host as Nova does for a new server; returns what Neutron made of it."""
    wanted = {"binding:host_id": host}
    if not port["device_id"]:
        wanted |= {"device_id": str(uuid.uuid4()), "device_owner": "compute:nova"}
    try:
        with region.neutron.client() as neutron:
            bound: dict[str, Any] = neutron.put(f"/ports/{port['id']}", json={"port": wanted}).json()["port"]
    except httpx.HTTPError as error:
        raise LabError(f"port {port['id']} in {region.name}: {error}") from error
    return bound


def _call(command: Collection[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
    )


def _failed(name: str) -> Path:
    return state.ROOT / ".failed" / name


def _keep_logs(lab: Lab) -> Path:
    """Copy the logs of a lab that failed to come up to where the clean-up leaves them."""
    kept = _failed(lab.name)
    shutil.rmtree(kept, ignore_errors=True)
    for log in lab.home.rglob("*.log"):
        target = kept / log.relative_to(lab.home)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, target)
    return kept
