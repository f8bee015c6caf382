"""Static checks of a list of apps: what can be wrong with a pipeline before any packet or row is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from dragonflow.pipeline.punt import PuntKind
from dragonflow.pipeline.registers import LAYOUT, Bits
from dragonflow.pipeline.table import Table


class PipelineError(ValueError):
    """The apps don't make a pipeline; the message lists everything that is wrong."""


class AppLike(Protocol):
    """As much of an app as the checks need."""

    @property
    def name(self) -> str:
        """Unique among apps."""
        ...

    @property
    def places(self) -> str:
        """Which ports it places; empty for none."""
        ...

    @property
    def follows(self) -> tuple[str, ...]:
        """The apps on whose places its own rest."""
        ...

    def tables(self) -> tuple[Table, ...]:
        """Its own tables."""
        ...

    def answering(self) -> Mapping[PuntKind, Any]:
        """Its handlers of punted packets."""
        ...


def check(apps: Sequence[AppLike], layout: Sequence[tuple[str, Bits, str]] = LAYOUT) -> None:
    """Refuse what can't work.

    :raises PipelineError: names and tables that are there twice, a way to a table that no app has, a table that no way leads
        to, places that rest on each other or on no app's, two apps that place the same ports or answer the same packets, named
        bits that overlap.
    """
    wrong = [*_check_names(apps), *_check_tables(apps), *_check_places(apps), *_check_bits(layout)]
    if wrong:
        raise PipelineError("; ".join(wrong))


def _twice(values: Iterator[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _check_names(apps: Sequence[AppLike]) -> Iterator[str]:
    for name in _twice(app.name for app in apps):
        yield f"two apps are called {name}"
    for words in _twice(app.places for app in apps if app.places):
        yield f"two apps place {words}"
    for kind in _twice(kind.name for app in apps for kind in app.answering()):
        yield f"two apps answer {kind}"


def _check_tables(apps: Sequence[AppLike]) -> Iterator[str]:
    tables = [table for app in apps for table in app.tables()]
    for name in _twice(table.name for table in tables):
        yield f"two tables are called {name}"
    by_number: dict[int, Table] = {}
    for table in tables:
        other = by_number.setdefault(table.number, table)
        if other is not table:
            yield f"tables {other.name} and {table.name} are both number {table.number}"
    led_to = {0}
    for table in tables:
        for way in table.ways:
            led_to.add(way.number)
            if by_number.get(way.number) is not way:
                yield f"table {table.name} leads to {way.name}, which is no app's"
    if tables and 0 not in by_number:
        yield "no app has table 0, where packets enter"
    for table in tables:
        if table.number not in led_to:
            yield f"no way leads to table {table.name}"


def _check_places(apps: Sequence[AppLike]) -> Iterator[str]:
    """An app may follow only earlier ones: then places can't rest on each other in a circle."""
    known = {app.name: app for app in apps}
    earlier: set[str] = set()
    for app in apps:
        for name in app.follows:
            if name not in known:
                yield f"app {app.name} follows {name}, which isn't there"
            elif name not in earlier:
                yield f"app {app.name} follows {name}, which doesn't stand before it: places could be cyclic"
            elif not known[name].places:
                yield f"app {app.name} follows {name}, which places nothing"
        earlier.add(app.name)


def _check_bits(layout: Sequence[tuple[str, Bits, str]]) -> Iterator[str]:
    for index, (name, bits, _) in enumerate(layout):
        for other, others, _ in layout[:index]:
            if bits.field == others.field and bits.mask & others.mask:
                yield f"{other} and {name} overlap in {bits.field}"
