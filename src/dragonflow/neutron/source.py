"""What Neutron's database says now, as functions that make rows: the side that is always right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

from neutron.objects import ports as port_objects
from neutron_lib import constants, exceptions
from neutron_lib.context import get_admin_context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory

from dragonflow.model import LogicalPort, LogicalSwitch, Row, Subnet
from dragonflow.neutron import db, translate
from dragonflow.store.keys import NETWORK, PORT, Pool

NETWORK_KIND, SUBNET_KIND, PORT_KIND = "network", "subnet", "port"

RowMaker = Callable[[int], Row]
"""Takes the object's key (0 for kinds that have none) and makes its row."""


class Kind(NamedTuple):
    """A kind of Neutron object: the row that it becomes, and the pool from which it gets its key."""

    row: type[Row]
    pool: Pool | None


KINDS = {
    NETWORK_KIND: Kind(LogicalSwitch, NETWORK),
    SUBNET_KIND: Kind(Subnet, None),
    PORT_KIND: Kind(LogicalPort, PORT),
}
"""In the order in which they refer to each other: what is referred to comes first."""


class Source(Protocol):
    """Where the present state of Neutron's objects is read."""

    def load(self, kind: str, id: str) -> RowMaker | None:
        """The object as it is now, or None if there is no such object."""
        ...

    def revision(self, kind: str, id: str) -> int | None:
        """The object's revision number now, or None if there is no such object."""
        ...


class Plugin:
    """Neutron's core plugin as a ``Source``. Every call reads in a transaction of its own, so never old news."""

    def load(self, kind: str, id: str) -> RowMaker | None:
        """See ``Source``."""
        context = get_admin_context()
        plugin = directory.get_plugin()
        try:
            with db_api.CONTEXT_READER.using(context):
                match kind:
                    case "network":
                        return _network(plugin.get_network(context, id))
                    case "subnet":
                        return _subnet(plugin.get_subnet(context, id))
                    case "port":
                        port = plugin.get_port(context, id)
                        others = port_objects.PortBinding.get_objects(context, port_id=id, status=constants.INACTIVE)
                        return _port(port, db.generation(context, id), others)
        except exceptions.NotFound:
            return None
        raise ValueError(f"no such kind of Neutron object: {kind}")

    def revision(self, kind: str, id: str) -> int | None:
        """See ``Source``."""
        return db.revision(get_admin_context(), kind, id)  # type: ignore[no-any-return]

    def all(self) -> Iterator[tuple[str, str, str, RowMaker]]:
        """Everything there is: kind, id, network and row maker of each object."""
        context = get_admin_context()
        plugin = directory.get_plugin()
        for network in plugin.get_networks(context):
            yield NETWORK_KIND, network["id"], network["id"], _network(network)
        for subnet in plugin.get_subnets(context):
            yield SUBNET_KIND, subnet["id"], subnet["network_id"], _subnet(subnet)
        generations = db.generations(context)
        others: dict[str, list[Any]] = {}
        for binding in port_objects.PortBinding.get_objects(context, status=constants.INACTIVE):
            others.setdefault(binding.port_id, []).append(binding)
        for port in plugin.get_ports(context):
            maker = _port(port, generations.get(port["id"], 0), others.get(port["id"], []))
            yield PORT_KIND, port["id"], port["network_id"], maker


def _network(network: dict[str, Any]) -> RowMaker:
    return partial(translate.logical_switch, network)


def _subnet(subnet: dict[str, Any]) -> RowMaker:
    return lambda _key: translate.subnet(subnet)


def _port(port: dict[str, Any], generation: int, others: list[Any]) -> RowMaker:
    bindings = [translate.PortBinding(binding.host, binding.vif_type, False) for binding in others]
    return lambda key: translate.logical_port(port, key, generation, bindings)
