"""Turns the replica into facts, and keeps them true: an owner renders again when something that it read has changed.

    replica.take_changes() ──> dirty owners ──> render(object, view) ──┬──> facts by owner      ──> switch
                                    ^                                  ├──> places ──> events   ──> subscribers
                                    └── readers of what changed <──────┘ (a new place is news to its readers)

Invariant: after ``settle`` the facts of all owners equal a rendering of everything from nothing, whatever the history. A
rendering that fails costs its own owner its facts (fail closed), never the loop.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dragonflow.apps.base import App, Render
from dragonflow.controller.locality import LocalityEvent, difference
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import Me, Read, View, locality_read, touched_reads
from dragonflow.model import LogicalPort
from dragonflow.pipeline.facts import Fact, Locality, Owner, Place, Trouble

LOG = logging.getLogger(__name__)

ROUNDS = 32
"""How often one owner may render within a settling. Places are acyclic and few apps deep, so only a faulty app comes near."""


class Settled(msgspec.Struct, frozen=True):
    """The outcome of a settling.

    ``facts`` are those of every owner that rendered again, all of them each time, an empty tuple where there are none any
    more. They may be the same as before: the ledger, which holds them anyway, takes the difference. Places and troubles are
    not among them. ``rendered`` counts renderings.
    """

    facts: dict[Owner, tuple[Fact, ...]]
    events: tuple[LocalityEvent, ...]
    rendered: int


class Engine:
    """Not thread-safe, does no I/O. ``settle`` costs what changed, not what is known."""

    def __init__(self, apps: Sequence[App], replica: Replica, me: Me) -> None:
        self._replica = replica
        self._me = me
        self._order = {app.name: order for order, app in enumerate(apps)}
        self._renderings: list[dict[str, Render]] = []
        self._models: dict[str, type[Any]] = {}
        self._kinds: dict[type[Any], list[tuple[int, str]]] = {}
        for order, app in enumerate(apps):
            renderings = app.renderings()
            self._renderings.append({model.__name__: render for model, render in renderings.items()})
            for model in renderings:
                self._models[model.__name__] = model
                self._kinds.setdefault(model, []).append((order, app.name))
        self._places = _Places(self._order)
        self._view = View(replica, self._places.winners, me)
        self._reads = _Reads()
        self._standing: set[Owner] = set()
        self._troubles: dict[Owner, tuple[str, ...]] = {}
        self._dirty: list[dict[Owner, None]] = [{} for _ in apps]
        self._mark_object(Me, me.id)

    @property
    def places(self) -> Mapping[str, Locality]:
        """Where each placed port is, as of the last settling."""
        return self._places.winners

    def locality(self, port: str) -> Locality | None:
        """Where a port is, as of the last settling."""
        return self._places.winners.get(port)

    @property
    def degraded(self) -> dict[Owner, str]:
        """The owners that are not, or not wholly, as they should be, and why."""
        found = {owner: list(reasons) for owner, reasons in self._troubles.items()}
        for owner, reason in self._places.disputes():
            found.setdefault(owner, []).append(reason)
        return {owner: "; ".join(reasons) for owner, reasons in found.items()}

    def settle(self) -> Settled:
        """Render all that rests on what changed since the last settling, until nothing more changes."""
        for change in self._replica.take_changes():
            self._mark_object(change.model, change.id)
            for read in touched_reads(change):
                self._mark_readers(read)
        facts: dict[Owner, tuple[Fact, ...]] = {}
        rounds: Counter[Owner] = Counter()
        moved: dict[str, Locality | None] = {}
        while (order := self._next_app()) is not None:
            batch, self._dirty[order] = self._dirty[order], {}
            for owner in batch:
                rounds[owner] += 1
                facts[owner] = self._render(order, owner, moved, endless=rounds[owner] > ROUNDS)
        changed = {owner: wanted for owner, wanted in facts.items() if wanted or owner in self._standing}
        self._standing.update(owner for owner, wanted in changed.items() if wanted)
        self._standing.difference_update([owner for owner, wanted in changed.items() if not wanted])
        return Settled(changed, self._events(moved), rounds.total())

    def _next_app(self) -> int | None:
        """The first app with dirty owners: apps that place ports stand early, so most owners render once."""
        for order, owners in enumerate(self._dirty):
            if owners:
                return order
        return None

    def _mark_object(self, model: type[Any], id: str) -> None:
        for order, name in self._kinds.get(model, ()):
            self._dirty[order][Owner(name, model.__name__, id)] = None

    def _mark_readers(self, read: Read) -> None:
        for owner in self._reads.readers(read):
            self._dirty[self._order[owner.app]][owner] = None

    def _render(
        self, order: int, owner: Owner, moved: dict[str, Locality | None], *, endless: bool
    ) -> tuple[Fact, ...]:
        """Render one owner and file what it yields; returns the facts for the switch."""
        model = self._models[owner.kind]
        found = self._me if model is Me else self._replica.get(model, owner.id)
        yielded: Iterable[Fact] = ()
        troubles: tuple[str, ...] = ()
        if endless:
            troubles = (f"rendered {ROUNDS} times without coming to rest: its places rest on each other",)
        elif found is not None:
            try:
                yielded = tuple(self._renderings[order][owner.kind](found, self._view))
            except Exception as error:  # whatever an app does, the loop goes on and tells
                LOG.exception("rendering of %s failed; its facts are withdrawn", owner)
                yielded, troubles = (), (f"rendering failed: {error!r}",)
        if not endless:
            self._reads.replace(owner, self._view.take_reads())
        places = {}
        facts = []
        for fact in yielded:
            if isinstance(fact, Place):
                places[fact.port] = fact.locality
            elif isinstance(fact, Trouble):
                troubles += (fact.reason,)
            else:
                facts.append(fact)
        self._say(owner, troubles)
        for port, before in self._places.claim(owner, places):
            moved.setdefault(port, before)
            self._mark_readers(locality_read(port))
        return tuple(facts)

    def _say(self, owner: Owner, troubles: tuple[str, ...]) -> None:
        before = self._troubles.pop(owner, ())
        if troubles:
            self._troubles[owner] = troubles
            if troubles != before:
                LOG.warning("%s: %s", owner, "; ".join(troubles))

    def _events(self, moved: Mapping[str, Locality | None]) -> tuple[LocalityEvent, ...]:
        events: list[LocalityEvent] = []
        for port, before in moved.items():
            revision = self._places.revisions.pop(port, 0)
            revision = self._replica.revision(LogicalPort, port) or revision
            after = self._places.winners.get(port)
            if after is not None:
                self._places.revisions[port] = revision
            events += difference(port, before, after, revision)
        return tuple(events)


class _Reads:
    """Which owner rests on which reads, both ways round."""

    def __init__(self) -> None:
        self._of: dict[Owner, tuple[Read, ...]] = {}
        self._readers: dict[Read, Owner | set[Owner]] = {}

    def readers(self, read: Read) -> Iterable[Owner]:
        """The owners that rest on the read."""
        found = self._readers.get(read)
        if found is None:
            return ()
        return tuple(found) if isinstance(found, set) else (found,)

    def replace(self, owner: Owner, reads: tuple[Read, ...]) -> None:
        """From now on the owner rests on these reads."""
        before = self._of.get(owner, ())
        if reads == before:
            return
        if reads:
            self._of[owner] = reads
        else:
            self._of.pop(owner, None)
        for read in set(before).difference(reads):
            self._remove(read, owner)
        for read in set(reads).difference(before):
            self._add(read, owner)

    def _add(self, read: Read, owner: Owner) -> None:
        found = self._readers.setdefault(read, owner)  # most reads have one reader: no set for those
        if isinstance(found, set):
            found.add(owner)
        elif found != owner:
            self._readers[read] = {found, owner}

    def _remove(self, read: Read, owner: Owner) -> None:
        found = self._readers[read]
        if isinstance(found, set):
            found.discard(owner)
            if not found:
                del self._readers[read]
        elif found == owner:
            del self._readers[read]


class _Places:
    """Who places which port where. If several owners claim a port, the first app wins, then the least owner."""

    def __init__(self, order: Mapping[str, int]) -> None:
        self._order = order
        self._claims: dict[str, tuple[tuple[Owner, Locality], ...]] = {}
        self._ports: dict[Owner, tuple[str, ...]] = {}
        self._disputed: set[str] = set()
        self.winners: dict[str, Locality] = {}
        self.revisions: dict[str, int] = {}

    def claim(self, owner: Owner, places: Mapping[str, Locality]) -> list[tuple[str, Locality | None]]:
        """From now on the owner claims these places. Returns the ports that moved, each with where it was before."""
        before = self._ports.get(owner, ())
        if places:
            self._ports[owner] = tuple(places)
        elif before:
            del self._ports[owner]
        moved = []
        for port in dict.fromkeys((*before, *places)):
            was = self.winners.get(port)
            self._put(port, owner, places.get(port))
            if self.winners.get(port) != was:
                moved.append((port, was))
        return moved

    def disputes(self) -> list[tuple[Owner, str]]:
        """The owners whose claim to a port lost against another's."""
        return [
            (owner, f"port {port} is placed by {self._claims[port][0][0]} too, whose place counts")
            for port in sorted(self._disputed)
            for owner, _ in self._claims[port][1:]
        ]

    def _put(self, port: str, owner: Owner, locality: Locality | None) -> None:
        claims = [claim for claim in self._claims.get(port, ()) if claim[0] != owner]
        if locality is not None:
            claims.append((owner, locality))
        claims.sort(key=lambda claim: (self._order[claim[0].app], claim[0]))
        if claims:
            self._claims[port] = tuple(claims)
            self.winners[port] = claims[0][1]
        else:
            self._claims.pop(port, None)
            self.winners.pop(port, None)
        (self._disputed.add if len(claims) > 1 else self._disputed.discard)(port)
