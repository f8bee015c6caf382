"""What an app is: a name, tables, and pure generators that say which facts an object calls for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any, ClassVar, TypeVar

from dragonflow.controller.view import Me, View
from dragonflow.model import Neighbour, OvsPort, RemoteChassis, Row
from dragonflow.pipeline import Fact, PacketOut, Punted, PuntKind, Table, match

A = TypeVar("A", bound="App")
O = TypeVar("O", bound="Row | OvsPort | Neighbour | RemoteChassis | Me")  # noqa: E741 - one letter, as is usual for type variables

Render = Callable[[Any, View], Iterator[Fact]]

Answer = Callable[[Punted, View], Iterator[PacketOut]]


def renders(
    model: type[O], only: Callable[[O, Me], bool] | None = None
) -> Callable[[Callable[[A, O, View], Iterator[Fact]]], Callable[[A, O, View], Iterator[Fact]]]:
    """Mark a method as the app's rendering of one kind of object; or ``only`` of those of which this is true.

    That is said of the object and the chassis alone. Of all others the method has nothing to say, so it isn't asked: of most
    ports of a large network only few apps have anything to say.
    """

    def mark(method: Callable[[A, O, View], Iterator[Fact]]) -> Callable[[A, O, View], Iterator[Fact]]:
        rendering = method if only is None else _guarded(method, only)
        rendering.__dict__["renders"], rendering.__dict__["only"] = model, only
        return rendering

    return mark


def _guarded(
    method: Callable[[A, O, View], Iterator[Fact]], only: Callable[[O, Me], bool]
) -> Callable[[A, O, View], Iterator[Fact]]:
    @wraps(method)
    def rendering(self: A, found: O, view: View) -> Iterator[Fact]:
        return method(self, found, view) if only(found, view.me) else iter(())

    return rendering


def answers(
    kind: PuntKind,
) -> Callable[[Callable[[A, Punted, View], Iterator[PacketOut]]], Callable[[A, Punted, View], Iterator[PacketOut]]]:
    """Mark a method as the handler of packets that flows punt with this kind: ``yield`` what to send, or nothing.

    It must be quick and pure. What a packet holds is a guest's word; what it has no answer to stays unanswered.
    """

    def mark(
        method: Callable[[A, Punted, View], Iterator[PacketOut]],
    ) -> Callable[[A, Punted, View], Iterator[PacketOut]]:
        method.__dict__["answers"] = kind
        return method

    return mark


class App:
    """A feature. Its renderings depend on their arguments alone, so what they yield now is all that should be there now.

    ``places`` says in words which ports the app gives a place, empty if none; only one app may place a kind of port.
    ``follows`` names the apps on whose places its own rest; they must stand earlier in the list of apps, so places are acyclic.
    """

    name: ClassVar[str]
    places: ClassVar[str] = ""
    follows: ClassVar[tuple[str, ...]] = ()

    @renders(Me)
    def host(self, me: Me, view: View) -> Iterator[Fact]:
        """Flows that rest on no row: here, what becomes of packets that nothing else matches. Extend it with ``super()``."""
        for table in self.tables():
            yield table.flow(0, match(), goto=table.miss)

    @classmethod
    def tables(cls) -> tuple[Table, ...]:
        """The app's tables in the order of a packet's way."""
        return tuple(sorted((it for it in vars(cls).values() if isinstance(it, Table)), key=lambda table: table.number))

    def renderings(self) -> Mapping[type[Any], Render]:
        """The marked methods by the kind of object that they render. :raises TypeError: two claim one kind."""
        found: dict[type[Any], Render] = {}
        for name in dir(self):
            method = getattr(self, name)
            model = getattr(method, "renders", None)
            if isinstance(model, type):
                if model in found:
                    raise TypeError(f"app {self.name}: two methods render {model.__name__}")
                found[model] = method
        return found

    def answering(self) -> Mapping[PuntKind, Answer]:
        """The marked handlers by the kind of packet that they answer. :raises TypeError: two claim one kind."""
        found: dict[PuntKind, Answer] = {}
        for name in dir(self):
            method = getattr(self, name)
            kind = getattr(method, "answers", None)
            if isinstance(kind, PuntKind):
                if kind in found:
                    raise TypeError(f"app {self.name}: two methods answer {kind.name}")
                found[kind] = method
        return found
