"""What the rest of the controller is told of the places that apps give to ports: differences, so they always balance."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from dragonflow.pipeline.facts import Distributed, Local, Locality, Remote

Kind = Literal["local", "remote", "distributed"]

_KINDS: dict[type[Locality], Kind] = {Local: "local", Remote: "remote", Distributed: "distributed"}


class Moved(NamedTuple):
    """The place of a port, as seen from this chassis, went from one to the other; None stands for nowhere.

    ``revision`` is the store revision that last wrote (or deleted) the port's row, 0 where none is known. ``since`` is when the
    oldest news arrived that the new place rests on, by the replica's clock.
    """

    port: str
    before: Locality | None
    after: Locality | None
    revision: int
    since: float


class LocalityEvent(msgspec.Struct, frozen=True):
    """A port's place, as seen from this chassis, was created, updated or deleted.

    ``locality`` is the new place, or the one that was deleted; ``before`` is where an updated one was. The rest: see ``Moved``.
    """

    kind: Kind
    change: Literal["created", "updated", "deleted"]
    port: str
    locality: Locality
    before: Locality | None
    revision: int
    since: float

    def __str__(self) -> str:
        return f"{self.kind}_{self.change} {self.port}"


def kind_of(locality: Locality) -> Kind:
    """The first half of an event's name."""
    return _KINDS[type(locality)]


def plain(locality: Locality) -> dict[str, Any]:
    """A place in words for JSON: its kind and its fields."""
    return {"kind": kind_of(locality), **msgspec.to_builtins(locality)}


def difference(moved: Moved) -> tuple[LocalityEvent, ...]:
    """The events that lead from one place to the other: a port that changes its kind is deleted, then created."""
    port, before, after, revision, since = moved
    if before == after:
        return ()
    if before is not None and after is not None and type(before) is type(after):
        return (LocalityEvent(kind_of(after), "updated", port, after, before, revision, since),)
    events = []
    if before is not None:
        events.append(LocalityEvent(kind_of(before), "deleted", port, before, None, revision, since))
    if after is not None:
        events.append(LocalityEvent(kind_of(after), "created", port, after, None, revision, since))
    return tuple(events)
