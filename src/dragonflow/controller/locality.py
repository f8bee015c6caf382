"""What the rest of the controller is told of the places that apps give to ports: differences, so they always balance."""

from __future__ import annotations

from typing import Literal

import msgspec

from dragonflow.pipeline.facts import Distributed, Local, Locality, Remote

Kind = Literal["local", "remote", "distributed"]

_KINDS: dict[type[Locality], Kind] = {Local: "local", Remote: "remote", Distributed: "distributed"}


class LocalityEvent(msgspec.Struct, frozen=True):
    """A port's place, as seen from this chassis, was created, updated or deleted.

    ``revision`` is the store revision of the port's row, 0 if the row is gone.
    """

    kind: Kind
    change: Literal["created", "updated", "deleted"]
    port: str
    locality: Locality
    revision: int

    def __str__(self) -> str:
        return f"{self.kind}_{self.change} {self.port}"


def kind_of(locality: Locality) -> Kind:
    """The first half of an event's name."""
    return _KINDS[type(locality)]


def difference(port: str, before: Locality | None, after: Locality | None, revision: int) -> tuple[LocalityEvent, ...]:
    """The events that lead from one place to the other: a port that changes its kind is deleted, then created."""
    if before == after:
        return ()
    if before is not None and after is not None and type(before) is type(after):
        return (LocalityEvent(kind_of(after), "updated", port, after, revision),)
    events = []
    if before is not None:
        events.append(LocalityEvent(kind_of(before), "deleted", port, before, revision))
    if after is not None:
        events.append(LocalityEvent(kind_of(after), "created", port, after, revision))
    return tuple(events)
