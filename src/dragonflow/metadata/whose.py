"""What the proxy asks the controller, and what the controller answers on its control socket (question ``metadata``)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Asker(NamedTuple):
    """Who asks: the key of a port, and which of its IPv4 addresses it used, from 0 on; None: its link-local IPv6 address."""

    key: int
    nth: int | None


class Instance(msgspec.Struct, frozen=True):
    """Nova's instance, its project, and the address at which Neutron knows the guest."""

    id: str
    project: str
    address: str


class Whose(msgspec.Struct, frozen=True):
    """The instance to which a port belongs, None if it belongs to none. ``known`` says if the controller knows its ports yet."""

    instance: Instance | None
    known: bool
