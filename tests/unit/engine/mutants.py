"""Deliberately broken parts. Each is a mistake that somebody could make, and each must be caught by the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dragonflow.apps import APPS
from dragonflow.apps.base import App, renders
from dragonflow.apps.classification import Classification
from dragonflow.apps.l2 import L2
from dragonflow.controller import engine
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Change, Replica
from dragonflow.controller.view import Me, Read, View
from dragonflow.model import LogicalPort, Row
from dragonflow.pipeline import Fact, Locality, Place


def with_view(view: type[View]) -> Callable[[Sequence[App], Replica, Me], Engine]:
    """An engine that looks through another view."""

    def make(apps: Sequence[App], replica: Replica, me: Me) -> Engine:
        made = Engine(apps, replica, me)
        made._view = view(replica, made._places.winners, me)
        return made

    return make


class MissesUnrecorded(View):
    def get(self, model: Any, id: str) -> Any:
        found = super().get(model, id)
        if found is None:
            del self._reads[model, id]
        return found


class OwnPlaceUnrecorded(View):
    def locality(self, port: str) -> Locality | None:
        return self._places.get(port) if port == self._subject else super().locality(port)


class HitsUnrecorded(View):
    def get(self, model: Any, id: str) -> Any:
        found = super().get(model, id)
        if found is not None:
            del self._reads[model, id]
        return found


class IndexUnrecorded(View):
    def where(self, model: Any, **condition: str) -> Any:
        return self._replica.where(model, **condition)


class EmptyIndexUnrecorded(View):
    def where(self, model: Any, **condition: str) -> Any:
        found = self._replica.where(model, **condition)
        return super().where(model, **condition) if found else found


class OldIndexForgotten(Engine):
    """Readers of an index aren't told of what left it."""

    def settle(self, want: engine.Want | None = None) -> engine.Settled:
        told = engine.touched_reads

        def forget(change: Change) -> list[Read]:
            return told(change) if change.new is None else told(change._replace(old=None))

        engine.touched_reads = forget  # type: ignore[attr-defined]
        try:
            return super().settle(want)
        finally:
            engine.touched_reads = told  # type: ignore[attr-defined]


class PlacesStay(Engine):
    """What was placed once stays placed when its owner no longer says so."""

    def __init__(self, apps: Sequence[App], replica: Replica, me: Me) -> None:
        super().__init__(apps, replica, me)
        claim = self._places.claim
        self._places.claim = lambda owner, places: claim(owner, places) if places else []  # type: ignore[method-assign]


class FailuresKeepFacts(Engine):
    """A rendering that fails leaves the facts of the last one."""

    def _render(self, order: int, owner: Any, since: float, moved: Any, *, endless: bool) -> tuple[Fact, ...]:
        kept: dict[Any, tuple[Fact, ...]] = self.__dict__.setdefault("kept", {})
        facts = super()._render(order, owner, since, moved, endless=endless)
        if "failed" in "".join(self._troubles.get(owner, ())) and self._replica.get(self._models[owner.kind], owner.id):
            return kept.get(owner, ())
        kept[owner] = facts
        return facts


class OldNewsWins(Replica):
    """Whatever arrives last counts."""

    def _accept(self, row: Row, revision: int) -> bool:
        self._revisions[type(row)].pop(row.id, None)
        return super()._accept(row, revision)


class Resurrecting(Replica):
    """Deletions are forgotten at once."""

    def remove(self, model: type[Row], id: str, revision: int, scope: str | None = None) -> bool:
        gone = super().remove(model, id, revision, scope)
        self._gone.clear()
        return gone


class SnapshotsOnlyAdd(Replica):
    """A snapshot removes nothing."""

    def _discard(self, model: type[Row], id: str) -> None:
        if self.__dict__.get("resetting"):
            return
        super()._discard(model, id)

    def reset_scope(self, scope: str, rows: Any, revision: int) -> bool:
        self.resetting = True
        try:
            return super().reset_scope(scope, rows, revision)
        finally:
            self.resetting = False


class ScopesStay(Replica):
    """A dropped scope's rows stay."""

    def drop_scope(self, scope: str) -> None:
        self._floors.pop(scope, None)


class StickyL2(L2):
    """Remembers its last good output, as many an agent has."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[Fact, ...]] = {}

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        facts = tuple(super().port(port, view))
        self.last[port.id] = facts or self.last.get(port.id, ())
        yield from self.last[port.id]


class CachingClassification(Classification):
    """Looks up a port's interface once and keeps it."""

    def __init__(self) -> None:
        self.cache: dict[str, Locality] = {}

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        for fact in super().port(port, view):
            if isinstance(fact, Place):
                yield Place(fact.port, self.cache.setdefault(fact.port, fact.locality))
            else:
                yield fact


def _instead(of: type[App], app: App) -> tuple[App, ...]:
    return tuple(app if isinstance(it, of) else it for it in APPS)


STICKY = _instead(L2, StickyL2())
CACHING = _instead(Classification, CachingClassification())

ENGINES: dict[str, Callable[[Sequence[App], Replica, Me], Engine]] = {
    **{
        view.__name__: with_view(view)
        for view in (MissesUnrecorded, HitsUnrecorded, IndexUnrecorded, EmptyIndexUnrecorded, OwnPlaceUnrecorded)
    },
    **{it.__name__: it for it in (OldIndexForgotten, PlacesStay, FailuresKeepFacts)},
}
REPLICAS = {it.__name__: it for it in (OldNewsWins, Resurrecting, SnapshotsOnlyAdd, ScopesStay)}
APP_LISTS = ("STICKY", "CACHING")
