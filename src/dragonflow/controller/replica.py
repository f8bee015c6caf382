"""The controller's copy of its part of the world: rows of the followed scopes, and what it found out on its own host.

The latter are the interfaces on the integration bridge, and neighbours in external networks. Of the ports it also works out on
which chassis networks are (``Presence``) and share addresses (``Sharing``), and which chassis of other regions there are
(``RemoteChassis``); of the security groups, which classes their rules make (``RuleClass``); of the bindings, which conntrack
zones ports have (``Zone``).

Revisions decide, not arrival: old news never overwrites newer, a late update never resurrects a deleted row, and news of a scope
that isn't followed is no news. The replica remembers what changed until ``take_changes`` fetches it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from dragonflow.model import (
    DERIVED,
    Derived,
    Ipsec,
    LogicalPort,
    Neighbour,
    OvsPort,
    Row,
    RuleClass,
    Seat,
    SecurityGroup,
    Watched,
    Zone,
    by_class,
    rule_class,
    rule_classes,
    seats,
    zones,
)
from dragonflow.model.numbering import Numbering
from dragonflow.model.rows import ROWS, Binding, Chassis, FloatingIp, Holder, LogicalRouter, LogicalSwitch, Subnet

M = TypeVar("M", bound="Row | OvsPort | Ipsec | Watched | Neighbour | Derived")

Object = Row | OvsPort | Ipsec | Watched | Neighbour | Derived

INDICES: dict[type[Object], tuple[str, ...]] = {
    Binding: ("host", "network"),
    Chassis: ("role",),
    FloatingIp: ("fixed_port", "fixed_ip", "forwarding_router"),
    LogicalRouter: ("key",),
    LogicalSwitch: ("key",),
    Holder: ("chassis", "place", "port"),
    LogicalPort: ("network", "chassis", "routed_network", "gateway_network", "dhcp_network"),
    Neighbour: ("network",),
    OvsPort: ("iface_id", "tunnel"),
    RuleClass: ("group", "remote_group"),
    Subnet: ("network",),
}
"""The fields by which ``where`` finds objects."""

TOMBSTONES = 10_000
"""How many deletions are remembered. The feed delivers in order, so only overtaken messages need any at all."""


class Change(NamedTuple):
    """An object that differs from what it was when changes were last taken; None stands for absent.

    ``revision`` is the store revision that wrote or deleted the row; 0 where none is known: interfaces have none, and a row
    that only left with its scope still stands in the store. ``since`` is when the first news of the change arrived, by the
    replica's clock.
    """

    model: type[Object]
    id: str
    old: Object | None
    new: Object | None
    revision: int
    since: float


class _Tombstone(NamedTuple):
    revision: int
    scope: str | None


class Replica:
    """Objects by (model, id). Reading costs a dictionary look-up; ``where`` costs what it returns.

    ``clock`` tells seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        models: tuple[type[Object], ...] = (*ROWS, OvsPort, Ipsec, Watched, Neighbour, *DERIVED)
        self._objects: dict[type[Any], dict[str, Any]] = {model: {} for model in models}
        self._revisions: dict[type[Any], dict[str, int]] = {model: {} for model in ROWS}
        self._indices: dict[tuple[type[Any], str], dict[str | int, set[str]]] = {
            (model, field): {} for model, fields in INDICES.items() for field in fields
        }
        self._floors: dict[str, int] = {}
        self._members: dict[str, set[tuple[type[Row], str]]] = {}
        self._gone: dict[tuple[type[Any], str], _Tombstone] = {}
        self._classes, self._zones = Numbering(*rule_classes.NUMBERS), Numbering(*zones.NUMBERS)
        self._seated: Counter[Seat] = Counter()
        """How many ports there are that add the same to what is worked out."""
        self._before: dict[tuple[type[Object], str], tuple[Object | None, float]] = {}
        """What changed since changes were last taken: how it was, and when the first news came."""

    # What is read

    def get(self, model: type[M], id: str) -> M | None:
        """The object, or None."""
        return self._objects[model].get(id)

    def where(self, model: type[M], **condition: str | int) -> tuple[M, ...]:
        """The objects whose field (one of ``INDICES``) has the given value, ordered by id."""
        ((field, value),) = condition.items()
        names = self._indices[model, field].get(value)
        return () if names is None else tuple(map(self._objects[model].__getitem__, sorted(names)))

    def all(self, model: type[M]) -> tuple[M, ...]:
        """All objects of a kind, ordered by id."""
        return tuple(found for _, found in sorted(self._objects[model].items()))

    def ids(self, model: type[Object], **condition: str | int) -> Iterable[str]:
        """The ids of all objects of a kind, or of those whose indexed field has the value; in no order, at no cost."""
        if not condition:
            return self._objects[model].keys()
        ((field, value),) = condition.items()
        return self._indices[model, field].get(value, ())

    def revision(self, model: type[Row], id: str) -> int:
        """The store revision of a row that is held, else 0."""
        return self._revisions[model].get(id, 0)

    def last_revision(self, model: type[Object], id: str) -> int:
        """The store revision that last wrote or deleted the row, as far as that is known, else 0."""
        if model not in self._revisions:
            return 0
        gone = self._gone.get((model, id))
        return self._revisions[model].get(id, 0 if gone is None else gone.revision)

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that are held."""
        return frozenset(self._floors)

    # What comes from the DF DB

    def reset_scope(self, scope: str, rows: Iterable[tuple[Row, int]], revision: int) -> bool:
        """Take in a snapshot: at ``revision`` the scope held exactly these rows, each with the revision that wrote it.

        What is known to be newer than the snapshot stays. All else is as the snapshot says, also where we know of a commit that
        it doesn't: that was acknowledged and lost (a fail-over of Redis). Returns False for a snapshot older than the one before,
        which says nothing; to begin anew with a store whose revisions went back, drop the scope first.
        """
        if revision < self._floors.get(scope, 0):
            return False
        members = self._members.setdefault(scope, set())
        missing = set(members)
        self._floors[scope] = revision
        self._forget_deletions(scope, revision)
        for row, written in rows:
            if row.scope != scope:
                raise ValueError(f"{type(row).__name__} {row.id} lies in scope {row.scope}, not in {scope}")
            missing.discard((type(row), row.id))
            if written < self._revisions[type(row)].get(row.id, 0) <= revision:
                self._discard(type(row), row.id)
            self._accept(row, written)
        for model, name in missing:
            if self._revisions[model][name] <= revision:
                self._discard(model, name)
        return True

    def drop_scope(self, scope: str) -> None:
        """Forget the scope and all that is in it."""
        for model, name in tuple(self._members.get(scope, ())):
            self._discard(model, name)
        self._members.pop(scope, None)
        self._floors.pop(scope, None)
        self._forget_deletions(scope)

    def upsert(self, row: Row, revision: int) -> bool:
        """Take in a row that was written in ``revision``. Returns False if that is no news."""
        floor = self._floors.get(row.scope)
        if floor is None or revision <= floor:
            return False
        return self._accept(row, revision)

    def remove(self, model: type[Row], id: str, revision: int, scope: str | None = None) -> bool:
        """Take in that a row was deleted in ``revision``. Returns False if that is no news.

        ``scope`` is where the row lay, if the teller knows: dropping the scope then forgets the deletion too.
        """
        key = (model, id)
        row = self._objects[model].get(id)
        known = self._gone.get(key)
        if row is not None:
            if revision <= max(self._revisions[model][id], self._floors[row.scope]):
                return False
            self._discard(model, id)
        elif known is not None and revision <= known.revision:
            return False
        if row is not None:
            scope = row.scope
        self._gone.pop(key, None)
        self._gone[key] = _Tombstone(revision, scope)
        if len(self._gone) > TOMBSTONES:
            del self._gone[next(iter(self._gone))]
        return row is not None

    # What comes from OVSDB, which speaks in order and for itself

    def upsert_port(self, port: OvsPort) -> None:
        """Take in an interface of the integration bridge."""
        self._set(OvsPort, port.id, port)

    def remove_port(self, name: str) -> None:
        """Take in that an interface is gone."""
        self._set(OvsPort, name, None)

    def reset_ports(self, ports: Iterable[OvsPort]) -> None:
        """Take in that these are all interfaces that there are."""
        gone = set(self._objects[OvsPort])
        for port in ports:
            gone.discard(port.id)
            self.upsert_port(port)
        for name in gone:
            self.remove_port(name)

    def set_ipsec(self, ipsec: Ipsec) -> None:
        """Take in whether this host can encrypt tunnels."""
        self._set(Ipsec, ipsec.id, ipsec)

    def set_watched(self, ids: Collection[str]) -> None:
        """Take in that somebody wants to see what is refused to these ports, and to no others."""
        for name in {*ids, *self._objects[Watched]}:
            self._set(Watched, name, Watched(id=name) if name in ids else None)

    # What the controller asked the external networks themselves

    def upsert_neighbour(self, neighbour: Neighbour) -> None:
        """Take in that somebody answered."""
        self._set(Neighbour, neighbour.id, neighbour)

    def remove_neighbour(self, id: str) -> None:
        """Take in that nobody answers there any more."""
        self._set(Neighbour, id, None)

    # What changed

    def take_changes(self) -> list[Change]:
        """What differs from the last time this was called, one entry an object, in the order in which the news came."""
        before, self._before = self._before, {}
        changes = []
        for (model, name), (old, since) in before.items():
            new = self._objects[model].get(name)
            if new != old:
                changes.append(Change(model, name, old, new, self.last_revision(model, name), since))
        return changes

    def _accept(self, row: Row, revision: int) -> bool:
        key = (type(row), row.id)
        tombstone = self._gone.get(key)
        if revision <= self._revisions[key[0]].get(row.id, 0) or (
            tombstone is not None and revision <= tombstone.revision
        ):
            return False
        old = self._objects[key[0]].get(row.id)
        if old is not None and old.scope != row.scope:
            self._members[old.scope].discard(key)
        self._gone.pop(key, None)
        self._members[row.scope].add(key)
        self._revisions[key[0]][row.id] = revision
        self._set(key[0], row.id, row)
        return True

    def _forget_deletions(self, scope: str, until: float = math.inf) -> None:
        for key in [key for key, gone in self._gone.items() if gone.scope == scope and gone.revision <= until]:
            del self._gone[key]

    def _discard(self, model: type[Row], id: str) -> None:
        row = self._objects[model][id]
        self._members[row.scope].discard((model, id))
        del self._revisions[model][id]
        self._set(model, id, None)

    def _set(self, model: type[Object], id: str, new: Object | None) -> None:
        """Put the object in place of the old one, in the indices and in what is worked out too, and note the change."""
        objects = self._objects[model]
        old = objects.get(id)
        if (model, id) not in self._before:
            self._before[model, id] = old, self.clock()
        for field in INDICES.get(model, ()):
            was = None if old is None else getattr(old, field)
            now = None if new is None else getattr(new, field)
            if was == now:
                continue
            index = self._indices[model, field]
            if was is not None:
                index[was].discard(id)
                if not index[was]:
                    del index[was]
            if now is not None:
                index.setdefault(now, set()).add(id)
        if new is None:
            objects.pop(id, None)
        else:
            objects[id] = new
        self._work_out(model, id, old, new)

    def _work_out(self, model: type[Object], id: str, old: Any, new: Any) -> None:
        """Keep true what follows from the object."""
        if model is SecurityGroup:
            self._classify(old, new)
        if model is Binding and (old is None) != (new is None):
            changed = self._zones.change((id,)) if old is None else self._zones.change(gone=(id,))
            for name, number in changed.items():
                self._set(Zone, name, None if number is None else Zone(id=name, number=number))
        if model is LogicalPort:
            was, now = seats(old), seats(new)
            for seat in now if was != now else ():
                self._count(seat, 1)
            for seat in was if was != now else ():
                self._count(seat, -1)

    def _classify(self, old: Any, new: Any) -> None:
        """Keep ``RuleClass`` true for a group that changed."""
        was, now = ({} if group is None else by_class(group) for group in (old, new))
        for name, number in self._classes.change(now.keys() - was.keys(), was.keys() - now.keys()).items():
            rules = now.get(name)
            known = self.get(RuleClass, name)
            if number is None:
                self._set(RuleClass, name, None)
            elif rules is not None:
                self._set(RuleClass, name, rule_class(new.id, rules, number))
            elif known is not None:  # another group's, whose number collided
                self._set(RuleClass, name, replace(known, number=number))

    def _count(self, where: Seat, step: int) -> None:
        """Count a port that adds this, or does no more, and keep what is worked out true."""
        before, after = self._seated[where], self._seated[where] + step
        self._seated[where] = after
        if not after:
            del self._seated[where]
        if not before or not after:
            kind, name, member = where
            known = self._objects[kind].get(name)
            others: frozenset[Any] = (known.members if known else frozenset()) - {member}
            there = others | {member} if after else others
            self._set(kind, name, kind(id=name, members=there) if there else None)
