"""Turns the replica into facts, and keeps them true: an owner renders again when something that it read has changed.

    replica.take_changes() ──> dirty owners ──> render(object, view) ──┬──> facts by owner        ──> switch
               │                    ^                                  ├──> places ──> what moved ──┐
               │                    └── readers of what changed <──────┘ (a new place is news)      ├──> subscribers
               └── what changed ────────────────────────────────────────────────────────────────────┘

Invariant: after ``settle`` the facts of all owners equal a rendering of everything from nothing, whatever the history. A
rendering that fails costs its own owner its facts (fail closed), never the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from dragonflow.apps.base import App, Render
from dragonflow.controller.locality import LocalityEvent, Moved, difference
from dragonflow.controller.replica import Change, Replica
from dragonflow.controller.view import OWN_PLACE, Me, Read, View, locality_read, touched_reads
from dragonflow.model import DERIVED, LogicalPort
from dragonflow.pipeline.facts import Fact, Flow, Locality, Owner, Place, Serve, Trouble

LOG = logging.getLogger(__name__)

ROUNDS = 32
"""How often one owner may render within a settling. Places are acyclic and few apps deep, so only a faulty app comes near."""

STEP = 16
"""Owners that render in one step of a settling: about a millisecond."""

SHARED = 4096
"""How many different sets of reads are remembered for sharing."""

Want = Callable[[Owner, tuple[Fact, ...]], None]
"""Is told that from now on an owner wants exactly these facts; none means that it wants nothing."""


class Settled(msgspec.Struct, frozen=True):
    """The outcome of a settling.

    ``facts`` are those of every owner that rendered again, all of them each time, an empty tuple where there are none. They may
    be the same as before: the ledger, which holds them anyway, takes the difference. Places and troubles are not among them.
    ``changes`` are the objects that it took in as news, ``moved`` the ports whose place may have changed by that. ``rendered``
    counts renderings.
    """

    facts: dict[Owner, tuple[Fact, ...]]
    changes: Sequence[Change]
    moved: Sequence[Moved]
    rendered: int

    @property
    def events(self) -> tuple[LocalityEvent, ...]:
        """What became of the places, as events."""
        return tuple(event for moved in self.moved for event in difference(moved))


class Engine:
    """Not thread-safe, does no I/O. ``settle`` costs what changed, not what is known."""

    def __init__(self, apps: Sequence[App], replica: Replica, me: Me) -> None:
        self._replica = replica
        self._me = me
        self._order = {app.name: order for order, app in enumerate(apps)}
        self._renderings: list[dict[str, Render]] = []
        self._models: dict[str, type[Any]] = {}
        self._kinds: dict[type[Any], dict[_Only | None, list[_Renderer]]] = {}
        """Who renders a kind of object, by of which objects (None: of all)."""
        for order, app in enumerate(apps):
            renderings = app.renderings()
            self._renderings.append({model.__name__: render for model, render in renderings.items()})
            for model, render in renderings.items():
                self._models[model.__name__] = model
                renderers = self._kinds.setdefault(model, {}).setdefault(getattr(render, "only", None), [])
                renderers.append(_Renderer(order, app.name))
        self._places = _Places(self._order)
        self._view = View(replica, self._places.winners, me)
        self._reads = _Reads()
        self._serving: dict[Owner, tuple[str, ...]] = {}
        self._served: frozenset[str] | None = None
        self._troubles: dict[Owner, tuple[str, ...]] = {}
        self._failed: set[Owner] = set()
        self._shown = False
        self._dirty: list[dict[Owner, float]] = [{} for _ in apps]
        """Who has to render, by app, and since when: the arrival of the oldest news that it hasn't seen."""
        self._mark_object(Me, me.id, replica.clock(), me)

    @property
    def places(self) -> Mapping[str, Locality]:
        """Where each placed port is, as of the last settling."""
        return self._places.winners

    def locality(self, port: str) -> Locality | None:
        """Where a port is, as of the last settling."""
        return self._places.winners.get(port)

    @property
    def serving(self) -> frozenset[str]:
        """For which ports this chassis speaks on their physical networks, as of the last settling."""
        if self._served is None:
            self._served = frozenset(chain.from_iterable(self._serving.values()))
        return self._served

    @property
    def degraded(self) -> dict[Owner, str]:
        """The owners that are not, or not wholly, as they should be, and why."""
        found = {owner: list(reasons) for owner, reasons in self._troubles.items()}
        for owner, reason in self._places.disputes():
            found.setdefault(owner, []).append(reason)
        return {owner: "; ".join(reasons) for owner, reasons in found.items()}

    @property
    def broken(self) -> frozenset[Owner]:
        """Of the degraded owners those whose facts or places are withdrawn; the others only have something to tell."""
        return frozenset((*self._failed, *(owner for owner, _ in self._places.disputes())))

    def settle(self, want: Want | None = None) -> Settled:
        """Render all that rests on what changed since the last settling, until nothing more changes.

        With ``want`` each owner's facts are handed to it as they are rendered, instead of being kept for ``Settled.facts``: at a
        cold start that halves the memory that is needed. An owner may then be handed over more than once; the last one counts.
        """
        steps = self.settling(want)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                settled: Settled = end.value
                return settled

    def settling(self, want: Want | None = None) -> Generator[None, None, Settled]:
        """``settle`` in steps of some owners each. The replica may change between them: what that touches renders (again) too.

        Nobody may look at facts or places before the end; they are true together only then.
        """
        self._shown = False
        facts: dict[Owner, tuple[Fact, ...]] = {}
        if want is None:
            want = facts.__setitem__
        taken: list[Change] = []
        moved: dict[str, _Moves] = {}
        rendered = 0
        while self._mark_changes(taken) or self._next_app() is not None:
            rounds: dict[Owner, int] = {}
            while (order := self._next_app()) is not None:
                batch, self._dirty[order] = self._dirty[order], {}
                for owner, since in batch.items():
                    rounds[owner] = times = rounds.get(owner, 0) + 1
                    want(owner, self._render(order, owner, since, moved, endless=times > ROUNDS))
                    rendered += 1
                    if rendered % STEP == 0:
                        yield
                        if self._mark_changes(taken):  # before anybody renders what may be taken back unmarked
                            rounds.clear()
        return Settled(facts, taken, self._moved(moved), rendered)

    def _mark_changes(self, taken: list[Change]) -> bool:
        """Take in what changed in the replica and add it to ``taken``; returns whether anything did."""
        changes = self._replica.take_changes()
        for change in changes:
            self._mark_object(change.model, change.id, change.since, change.old, change.new)
            if self._reads:
                for read in touched_reads(change):
                    self._mark_readers(read, change.since)
        taken += (change for change in changes if change.model not in DERIVED)  # those only follow from ports' rows
        return bool(changes)

    def _next_app(self) -> int | None:
        """The first app with dirty owners: apps that place ports stand early, so most owners render once."""
        for order, owners in enumerate(self._dirty):
            if owners:
                return order
        return None

    def _mark_object(self, model: type[Any], id: str, since: float, *sides: object) -> None:
        """Have the apps render the object that have something to say of what it was or what it is (``sides``)."""
        for order, app in self._renderers(model, *sides):
            # changes come in order: the first is oldest
            self._dirty[order].setdefault(Owner(app, model.__name__, id), since)

    def _renderers(self, model: type[Any], *sides: object) -> Iterator[_Renderer]:
        """The apps that have something to say of any of these, which are objects of one kind, or None."""
        for only, renderers in self._kinds.get(model, {}).items():
            for side in sides:
                if side is not None and (only is None or only(side, self._me)):
                    yield from renderers
                    break

    def _mark_readers(self, read: Read, since: float) -> None:
        for owner in self._reads.readers(read):
            self._mark(self._order[owner.app], owner, since)

    def _mark_readers_of_place(self, port: str, since: float) -> None:
        self._mark_readers(locality_read(port), since)
        for order, app in self._renderers(LogicalPort, self._replica.get(LogicalPort, port)):
            owner = Owner(app, LogicalPort.__name__, port)
            if OWN_PLACE in self._reads.of(owner):
                self._mark(order, owner, since)

    def _mark(self, order: int, owner: Owner, since: float) -> None:
        dirty = self._dirty[order]
        dirty[owner] = min(since, dirty.get(owner, since))

    def _render(
        self, order: int, owner: Owner, since: float, moved: dict[str, _Moves], *, endless: bool
    ) -> tuple[Fact, ...]:
        """Render one owner for news of ``since`` and file what it yields; returns the facts for the switch."""
        model = self._models[owner.kind]
        found = self._me if model is Me else self._replica.get(model, owner.id)
        yielded: Iterable[Fact] = ()
        troubles: tuple[str, ...] = ()
        failed = endless
        if endless:
            troubles = (f"rendered {ROUNDS} times without coming to rest: its places rest on each other",)
        self._view.begin(model, owner.id)
        if found is not None and not endless:
            try:
                yielded = tuple(self._renderings[order][owner.kind](found, self._view))
            except Exception as error:  # whatever an app does, the loop goes on and tells
                if not self._shown:  # one traceback a settling: a fault that meets one port often meets all
                    LOG.exception("rendering of %s failed; its facts are withdrawn", owner)
                    self._shown = True
                failed, troubles = True, (f"rendering failed: {error!r}",)
        if not endless:
            self._reads.replace(owner, self._view.reads)
        facts, places, serves, told = _sorted_out(yielded)
        troubles += told
        if serves != self._serving.get(owner, ()):
            self._serving[owner], self._served = serves, None
        self._say(owner, troubles)
        (self._failed.add if failed else self._failed.discard)(owner)
        if places or self._places.claimed_by(owner):
            for port, before in self._places.claim(owner, places):
                first, oldest = moved.get(port, (before, since))
                moved[port] = first, min(oldest, since)
                self._mark_readers_of_place(port, since)
        return facts

    def _say(self, owner: Owner, troubles: tuple[str, ...]) -> None:
        before = self._troubles.pop(owner, ())
        if troubles:
            self._troubles[owner] = troubles
            if troubles != before:
                LOG.warning("%s: %s", owner, "; ".join(troubles))

    def _moved(self, moves: Mapping[str, _Moves]) -> list[Moved]:
        return [
            Moved(port, before, self.locality(port), self._replica.last_revision(LogicalPort, port), since)
            for port, (before, since) in moves.items()
        ]


def _sorted_out(
    yielded: Iterable[Fact],
) -> tuple[tuple[Fact, ...], dict[str, Locality], tuple[str, ...], tuple[str, ...]]:
    """What the switch is told of, the places, which ports are served, and the troubles."""
    facts: list[Fact] = []
    places: dict[str, Locality] = {}
    serves: list[str] = []
    troubles: list[str] = []
    for fact in yielded:
        if type(fact) is Flow:  # as nearly all are
            facts.append(fact)
        elif isinstance(fact, Place):
            places[fact.port] = fact.locality
        elif isinstance(fact, Trouble):
            troubles.append(fact.reason)
        else:
            facts.append(fact)
            if isinstance(fact, Serve):
                serves.append(fact.port)
    return tuple(facts), places, tuple(serves), tuple(troubles)


class _Renderer(NamedTuple):
    """An app that renders a kind of object: its place in the order, and its name."""

    order: int
    app: str


_Only = Callable[[Any, Me], bool]
"""Of which objects of a kind an app has something to say, see ``renders``."""


_Moves = tuple[Locality | None, float]
"""Where a port was before it moved (perhaps more than once), and since when there was news of that."""


class _Reads:
    """Which owner rests on which reads, both ways round. Owners with the same reads share them: there are many alike."""

    def __init__(self) -> None:
        self._of: dict[Owner, tuple[Read, ...]] = {}
        self._readers: dict[Read, Owner | set[Owner]] = {}
        self._shared: dict[tuple[Read, ...], tuple[Read, ...]] = {}

    def __bool__(self) -> bool:
        """Whether any owner rests on anything."""
        return bool(self._of)

    def of(self, owner: Owner) -> tuple[Read, ...]:
        """What the owner rests on."""
        return self._of.get(owner, ())

    def readers(self, read: Read) -> tuple[Owner, ...]:
        """The owners that rest on the read, but for their own places."""
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
            self._of[owner] = self._share(reads)
        else:
            del self._of[owner]
        if before:
            for read in set(before).difference(reads):
                self._remove(read, owner)
            reads = tuple(set(reads).difference(before))
        for read in reads:
            self._add(read, owner)

    def _share(self, reads: tuple[Read, ...]) -> tuple[Read, ...]:
        if len(self._shared) >= SHARED:
            self._shared.clear()
        return self._shared.setdefault(reads, reads)

    def _add(self, read: Read, owner: Owner) -> None:
        if read is OWN_PLACE:
            return
        found = self._readers.setdefault(read, owner)  # most reads have one reader: no set for those
        if isinstance(found, set):
            found.add(owner)
        elif found != owner:
            self._readers[read] = {found, owner}

    def _remove(self, read: Read, owner: Owner) -> None:
        if read is OWN_PLACE:
            return
        found = self._readers[read]
        if isinstance(found, set):
            found.discard(owner)
            if not found:
                del self._readers[read]
        elif found == owner:
            del self._readers[read]


_NOBODY: Mapping[Owner, Locality] = {}


class _Places:
    """Who places which port where. If several owners claim a port, the first app wins, then the least owner."""

    def __init__(self, order: Mapping[str, int]) -> None:
        self._order = order
        self._claims: dict[str, Owner | dict[Owner, Locality]] = {}
        """Of most ports one owner, whose claim is in ``winners``."""
        self._foreign: dict[Owner, tuple[str, ...]] = {}
        """The claims of owners to ports other than the one that they are about."""
        self._disputed: set[str] = set()
        self.winners: dict[str, Locality] = {}

    def claimed_by(self, owner: Owner) -> bool:
        """Whether the owner claims any place; most never do."""
        return owner in self._foreign or owner in self._claimants(owner.id)

    def claim(self, owner: Owner, places: Mapping[str, Locality]) -> list[tuple[str, Locality | None]]:
        """From now on the owner claims these places. Returns the ports that moved, each with where it was before."""
        before = (owner.id, *self._foreign.pop(owner, ()))
        if foreign := tuple(port for port in places if port != owner.id):
            self._foreign[owner] = foreign
        moved = []
        for port in dict.fromkeys((*before, *places)):
            was = self.winners.get(port)
            self._put(port, owner, places.get(port))
            if self.winners.get(port) != was:
                moved.append((port, was))
        return moved

    def disputes(self) -> list[tuple[Owner, str]]:
        """The owners whose claim to a port lost against another's."""
        found = []
        for port in sorted(self._disputed):
            winner, *losers = sorted(self._claimants(port), key=self._rank)
            found += [(loser, f"port {port} is placed by {winner} too, whose place counts") for loser in losers]
        return found

    def _put(self, port: str, owner: Owner, locality: Locality | None) -> None:
        """Replace the owner's claim to the port, None for no claim."""
        found = self._claims.get(port)
        if found is None or found == owner:
            if locality is not None:
                self._claims[port] = owner
                self.winners[port] = locality
            elif found is not None:
                del self._claims[port], self.winners[port]
            return
        claims = dict(self._claimants(port))
        if locality is not None:
            claims[owner] = locality
        else:
            claims.pop(owner, None)
        winner = min(claims, key=self._rank)
        self.winners[port] = claims[winner]
        if len(claims) > 1:
            self._claims[port] = claims
            self._disputed.add(port)
        else:
            self._claims[port] = winner
            self._disputed.discard(port)

    def _claimants(self, port: str) -> Mapping[Owner, Locality]:
        found = self._claims.get(port)
        if found is None:
            return _NOBODY
        return found if isinstance(found, dict) else {found: self.winners[port]}

    def _rank(self, owner: Owner) -> tuple[int, Owner]:
        return self._order[owner.app], owner
