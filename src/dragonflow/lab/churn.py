"""Ports that change, while others stay as they are: what users of a cloud do all day, and what must have come of it.

``Churn`` remembers what it made of each port. From that alone follows what Neutron must say of it, and who must reach whom.
Its VMs are plugged into bays, so that no packet of others is lost by Open vSwitch itself (see ``bay``).
"""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from dragonflow.lab import system
from dragonflow.lab.bay import Bay
from dragonflow.lab.lab import Lab
from dragonflow.lab.matrix import Matrix
from dragonflow.lab.state import Known, Vm
from dragonflow.lab.system import LabError
from dragonflow.lab.vm import INTERFACE

API_PATIENCE = 60.0
"""Seconds for which a request to Neutron is tried again, on one server after the other."""

REACH_INTERVAL = 0.1
MOST_PLUGGED = 12
"""VMs that the churn keeps: beyond that it takes the oldest out first."""

BAYS = 5
"""Places for VMs on each host: more than its share of those."""


class Api:
    """Neutron as a user sees it who tries again, and elsewhere, when a server doesn't answer."""

    def __init__(self, lab: Lab) -> None:
        self._clients = [server.client() for server in lab.region().neutrons]

    def close(self) -> None:
        """Close its connections."""
        for client in self._clients:
            client.close()

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """:raises LabError: no server answers for ``API_PATIENCE``. :raises httpx.HTTPStatusError: one refuses."""
        end = time.monotonic() + API_PATIENCE
        while True:
            for client in self._clients:
                try:
                    return client.request(method, path, **options)
                except httpx.TransportError as error:
                    failure: Exception = error
                except httpx.HTTPStatusError as error:
                    if error.response.status_code < 500:
                        raise
                    failure = error
            if time.monotonic() > end:
                raise LabError(f"{method} {path}: {failure}") from failure
            time.sleep(0.2)

    def ports(self) -> dict[str, dict[str, Any]]:
        """All ports by id, with what is checked of them."""
        fields = ["id", "status", "binding:host_id", "admin_state_up"]
        found = self.send("GET", "/ports", params={"fields": fields}).json()["ports"]
        return {port["id"]: port for port in found}


@dataclass
class Changing:
    """A port that the churn has made. ``bay`` is where it is plugged, if it is; ``plugs`` counts how often it was."""

    known: Known
    host: str
    bay: Bay | None = None
    enabled: bool = True
    plugs: int = 0

    @property
    def id(self) -> str:
        """The port's."""
        return str(self.known.port["id"])

    @property
    def vm(self) -> Vm | None:
        """Its VM, if it is plugged."""
        return None if self.bay is None else self.bay.vm

    @property
    def status(self) -> str:
        """What Neutron must say of it."""
        return "ACTIVE" if self.bay is not None and self.enabled else "DOWN"


class Churn:
    """Makes, plugs, disables, unplugs and deletes ports of one network, in an order that ``chance`` gives.

    Every host gets so many ``bays``, called ``name`` and a number; where all are taken, the oldest VM makes room for the next.
    """

    def __init__(
        self,
        lab: Lab,
        api: Api,
        network: dict[str, Any],
        chance: random.Random,
        *,
        name: str = "churn",
        bays: int = BAYS,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Ports are in these security ``groups``, or in the project's default one."""
        self._lab, self._api, self._network, self._chance = lab, api, network, chance
        self._subnets = api.send("GET", "/subnets", params={"network_id": network["id"]}).json()["subnets"]
        with ThreadPoolExecutor() as pool:
            making = [
                pool.submit(Bay, host, f"{name}{number}", network["mtu"])
                for number in range(bays)
                for host in lab.region().hosts.values()
            ]
        self._free: dict[str, deque[Bay]] = defaultdict(deque)
        for bay in [each.result() for each in making]:
            self._free[bay.host.name].append(bay)
        self._groups = {} if groups is None else {"security_groups": list(groups)}
        self.ports: dict[str, Changing] = {}
        self.changes = 0

    def prepare(self, hosts: Sequence[str]) -> list[Changing]:
        """Make a port on each of these hosts, to be plugged later."""
        return [self._create(host) for host in hosts]

    def plug(self, changing: Changing) -> None:
        """Plug a port that was made before."""
        free = self._free[changing.host]
        if not free:
            self._unplug(next(each for each in self.ports.values() if each.host == changing.host and each.bay))
        changing.bay = free.popleft()
        changing.bay.plug(changing.known, self._lab.region().name)
        changing.plugs += 1
        self.changes += 1

    def run(self, count: int, hosts: Sequence[str], until: Callable[[], bool] = lambda: False) -> None:
        """Carry out so many changes on these hosts, or fewer if there is an end to it."""
        for _ in range(count):
            if until():
                return
            self._step(hosts)

    def _step(self, hosts: Sequence[str]) -> None:
        there = [each for each in self.ports.values() if each.host in hosts]
        plugged = [each for each in there if each.bay is not None]
        todo: list[Callable[[], None]] = [lambda: self.plug(self._create(self._chance.choice(hosts)))]
        todo += [lambda each=each: self.plug(each) for each in there if each.bay is None]  # type: ignore[misc]
        if len(plugged) > 2:
            todo += [lambda: self._switch(self._chance.choice(plugged)), lambda: self._unplug(plugged[0])]
        if len(plugged) > MOST_PLUGGED:
            todo = [lambda: self._unplug(plugged[0]), lambda: self._delete(plugged[0])]
        if len(there) > len(plugged) + 2:
            todo.append(lambda: self._delete(next(each for each in there if each.bay is None)))
        self._chance.choice(todo)()

    def _create(self, host: str) -> Changing:
        body = {
            "network_id": self._network["id"],
            "device_id": str(uuid.UUID(int=self._chance.getrandbits(128), version=4)),
        }
        body |= {"device_owner": "compute:nova", "binding:host_id": host} | self._groups
        port = self._api.send("POST", "/ports", json={"port": body}).json()["port"]
        self.ports[port["id"]] = changing = Changing(Known(port, self._subnets, self._network["mtu"]), host)
        self.changes += 1
        return changing

    def _switch(self, changing: Changing) -> None:
        body = {"port": {"admin_state_up": not changing.enabled}}
        self._api.send("PUT", f"/ports/{changing.id}", json=body)
        changing.enabled = not changing.enabled
        self.changes += 1

    def _unplug(self, changing: Changing) -> None:
        if changing.bay is not None:
            changing.bay.unplug()
            self._free[changing.host].append(changing.bay)
            changing.bay = None
            self.changes += 1

    def _delete(self, changing: Changing) -> None:
        """As Nova does: while it is plugged, if it is; the VM goes after."""
        with contextlib.suppress(httpx.HTTPStatusError):  # deleted by a request whose answer got lost
            self._api.send("DELETE", f"/ports/{changing.id}")
        self._unplug(changing)
        del self.ports[changing.id]
        self.changes += 1

    # What must have come of it

    def wrong(self, said: dict[str, dict[str, Any]]) -> Iterator[str]:
        """Where Neutron says of a port what isn't so."""
        for id_, changing in self.ports.items():
            status = said.get(id_, {}).get("status", "gone")
            if status != changing.status:
                where = f"plugged in {changing.host}" if changing.bay else f"unplugged, of {changing.host}"
                enabled = "" if changing.enabled else ", disabled"
                yield f"port {id_} is {status}, not {changing.status} ({where}{enabled})"

    def untold(self) -> Iterator[str]:
        """Of which plugs Nova wasn't told. Only a port's first one counts: Nova waits for no other, and of a port that was
        unplugged and plugged again while nobody could say so, nobody needs to hear.
        """
        told = {
            event["tag"]: event["time"] for event in self._lab.nova_events() if event["name"] == "network-vif-plugged"
        }
        for id_, changing in self.ports.items():
            if changing.plugs == 1 and changing.status == "ACTIVE" and id_ not in told:
                yield f"Nova was not told that port {id_} on {changing.host} is plugged"

    def unreached(self, sources: Sequence[Vm], patience: float) -> list[str]:
        """Which ports that should be reached are not, from a VM of another host, for so many seconds."""
        pairs = [
            (next(vm for vm in sources if vm.host != changing.host), changing.vm, changing.vm.ips[0])
            for changing in self.ports.values()
            if changing.vm is not None and changing.enabled
        ]
        # Neutron gives addresses again, and a guest believes for a while that it knows whose one is.
        for source, _, ip in pairs:
            system.ip(source.netns, f"neighbour flush to {ip} dev {INTERFACE}")
        probing = Matrix(pairs, REACH_INTERVAL)
        try:
            probing.start(patience)
        except LabError as error:
            return [str(error)]
        probing.stop()
        return []
