"""Dragonflow's own tables in Neutron's SQL database, their alembic branch and the statements on them."""

from dragonflow.neutron.db.blocks import block, unblock
from dragonflow.neutron.db.events import Owed, accepted, of_nova, owe, owed, put_off, refused, strike
from dragonflow.neutron.db.floating import (
    FLOATING_KIND,
    FloatingNow,
    floating_ips,
    floating_now,
    listen_to_floating_ips,
)
from dragonflow.neutron.db.journal import Entry, claim, done, pending, postpone, record, record_all, waiting, waits
from dragonflow.neutron.db.listeners import RECORDED, StaleTurn, fenced, listen_to_ports
from dragonflow.neutron.db.models import JournalEntry, OwedEvent, PortGeneration
from dragonflow.neutron.db.ports import (
    PortNow,
    StandbyNow,
    generation,
    generations,
    ports_mark,
    ports_now,
    revision,
    standby_now,
)
from dragonflow.neutron.db.qos import QOS_KIND, listen_to_qos
from dragonflow.neutron.db.remote import listen_to_remote_ports
from dragonflow.neutron.db.remote import obstacle as obstacle_to_remote
from dragonflow.neutron.db.routers import ROUTER_KIND, listen_to_routers, our_routers, router_interfaces
from dragonflow.neutron.db.security_groups import ADDRESS_GROUP_KIND, SECURITY_GROUP_KIND, listen_to_security_groups
from dragonflow.neutron.db.trunks import former_children, listen_to_trunks, trunkings, trunks_now

__all__ = [
    "ADDRESS_GROUP_KIND",
    "FLOATING_KIND",
    "QOS_KIND",
    "RECORDED",
    "ROUTER_KIND",
    "SECURITY_GROUP_KIND",
    "Entry",
    "FloatingNow",
    "JournalEntry",
    "Owed",
    "OwedEvent",
    "PortGeneration",
    "PortNow",
    "StaleTurn",
    "StandbyNow",
    "accepted",
    "block",
    "claim",
    "done",
    "fenced",
    "floating_ips",
    "floating_now",
    "former_children",
    "generation",
    "generations",
    "listen_to_floating_ips",
    "listen_to_ports",
    "listen_to_qos",
    "listen_to_remote_ports",
    "listen_to_routers",
    "listen_to_security_groups",
    "listen_to_trunks",
    "obstacle_to_remote",
    "of_nova",
    "our_routers",
    "owe",
    "owed",
    "pending",
    "ports_mark",
    "ports_now",
    "postpone",
    "put_off",
    "record",
    "record_all",
    "refused",
    "revision",
    "router_interfaces",
    "standby_now",
    "strike",
    "trunkings",
    "trunks_now",
    "unblock",
    "waiting",
    "waits",
]
