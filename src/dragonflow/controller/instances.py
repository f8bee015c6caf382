"""Whose port is it that asks the metadata service? Answered from the replica, also while the DF DB is away."""

from __future__ import annotations

from dragonflow.apps.metadata import ipv4_addresses, serves
from dragonflow.controller.view import View
from dragonflow.metadata.whose import Asker, Instance
from dragonflow.model import LogicalPort
from dragonflow.pipeline import Local


def instance_of(asker: Asker, view: View) -> Instance | None:
    """The instance to which the port belongs, if it is on this chassis; None: there is none.

    Its address is the one that was used. In place of a link-local one, which Neutron doesn't know, it is the port's first: Nova
    gives the guest what it is told here as ``local-ipv4``.
    """
    port = next((it for it in view.where(LogicalPort, chassis=view.me.chassis) if it.key == asker.key), None)
    if port is None or not serves(port) or not isinstance(view.locality(port.id), Local):
        return None
    known = ipv4_addresses(port)
    if asker.nth is None:
        return Instance(port.device_id, port.project, next(iter((*known, *port.ips)), ""))
    return Instance(port.device_id, port.project, known[asker.nth]) if asker.nth < len(known) else None
