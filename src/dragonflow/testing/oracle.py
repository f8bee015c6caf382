"""The oracle: what should be, computed from nothing and without any of the engine's cleverness.

It renders everything for each object, again and again until places come to rest, and records no reads. Tests ask it in a fresh
process, because an app or a library that remembers something would remember it for an oracle in the same process too:

    python -m dragonflow.testing.oracle < world.json        # one world; prints facts by owner, and places, as JSON
    python -m dragonflow.testing.oracle --serve             # a world a line, each compiled in a new fork
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from dragonflow.apps.base import App
from dragonflow.controller.replica import Object
from dragonflow.controller.view import Me, View
from dragonflow.model import Derived, Ipsec, Neighbour, OvsPort, Row, Watched, worked_out
from dragonflow.pipeline.facts import Fact, Locality, Owner, Place, Trouble
from dragonflow.testing.worlds import World

M = TypeVar("M", bound="Row | OvsPort | Ipsec | Watched | Neighbour | Derived")

_ROUNDS = 20
"""More than the longest chain of places that rest on each other."""


class Restless(RuntimeError):
    """The places of this world never come to rest: they rest on each other in a circle."""


class Compiled(msgspec.Struct, frozen=True):
    """What the switch should hold, by owner (owners without facts left out), and where ports are."""

    facts: dict[Owner, tuple[Fact, ...]]
    places: dict[str, Locality]

    def text(self) -> Verdict:
        """The same in words, to compare across processes."""
        facts = {str(owner): sorted(map(repr, facts)) for owner, facts in self.facts.items() if facts}
        return Verdict(facts, {port: repr(locality) for port, locality in self.places.items()})


class Verdict(msgspec.Struct, frozen=True):
    """What was compiled, each fact and place as its ``repr``."""

    facts: dict[str, list[str]]
    places: dict[str, str]


class _PlainView(View):
    """The whole world, read without notes and without indices."""

    def __init__(self, world: World, places: Mapping[str, Locality]) -> None:
        self.me = world.me
        self._objects: dict[tuple[type[Any], str], Object] = {(type(it), it.id): it for it in _objects(world)}
        self._placed = places

    def get(self, model: type[M], id: str) -> M | None:
        found = self._objects.get((model, id))
        return found if isinstance(found, model) else None

    def where(self, model: type[M], **condition: str | int) -> tuple[M, ...]:
        ((field, value),) = condition.items()
        return tuple(it for it in self.all(model) if getattr(it, field) == value)

    def all(self, model: type[M]) -> tuple[M, ...]:
        return tuple(sorted((it for it in self._objects.values() if isinstance(it, model)), key=lambda it: it.id))

    def locality(self, port: str) -> Locality | None:
        return self._placed.get(port)


def compile_world(apps: Sequence[App], world: World) -> Compiled:
    """Render everything from nothing. :raises Restless: an app's places are cyclic."""
    places: dict[str, Locality] = {}
    for _ in range(_ROUNDS):
        found = _render_all(apps, world, places)
        if found.places == places:
            return found
        places = found.places
    raise Restless(f"places still change after {_ROUNDS} rounds: {places}")


def _objects(world: World) -> tuple[Object, ...]:
    """What the world holds, and what follows from its rows."""
    return (*world.objects, *worked_out(world.rows))


def _render_all(apps: Sequence[App], world: World, places: Mapping[str, Locality]) -> Compiled:
    view = _PlainView(world, places)
    facts: dict[Owner, tuple[Fact, ...]] = {}
    placed: dict[str, Locality] = {}
    objects: list[Object | Me] = sorted((world.me, *_objects(world)), key=lambda it: (type(it).__name__, it.id))
    for app in apps:
        renderings = app.renderings()
        for it in objects:
            if (render := renderings.get(type(it))) is None:
                continue
            try:
                yielded = tuple(render(it, view))
            except Exception:  # as in the engine: what fails has no facts
                continue
            for fact in yielded:
                if isinstance(fact, Place):
                    placed.setdefault(fact.port, fact.locality)
            wanted = tuple(fact for fact in yielded if not isinstance(fact, Place | Trouble))
            if wanted:
                facts[Owner(app.name, type(it).__name__, it.id)] = wanted
    return Compiled(facts, placed)


class Oracle:
    """An oracle in a process of its own, which compiles each world in a fresh fork. Use it as a context manager.

    ``apps`` names the list to ask, as ``module:NAME``; ``path`` is put before the module search path.
    """

    def __init__(self, apps: str = "dragonflow.apps:APPS", path: str | None = None) -> None:
        environment = dict(os.environ)
        if path is not None:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (path, environment.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dragonflow.testing.oracle", "--serve", "--apps", apps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def __enter__(self) -> Oracle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def ask(self, world: World) -> Verdict:
        """What should be in this world. :raises RuntimeError: the oracle's process failed; its own stderr says why."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(world) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the oracle's process ended; see its stderr")
        return msgspec.json.decode(line, type=Verdict)


def _load_apps(name: str) -> Sequence[App]:
    module, _, attribute = name.partition(":")
    apps: Any = getattr(importlib.import_module(module), attribute)
    return tuple(apps)


def _answer(apps: Sequence[App], line: bytes) -> None:
    world = msgspec.json.decode(line, type=World)
    sys.stdout.buffer.write(msgspec.json.encode(compile_world(apps, world).text()) + b"\n")
    sys.stdout.buffer.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. With ``--serve`` each line is answered by a child that has rendered nothing before."""
    parser = argparse.ArgumentParser(prog="python -m dragonflow.testing.oracle", description=__doc__)
    parser.add_argument("--apps", default="dragonflow.apps:APPS", help="the list of apps, as MODULE:NAME")
    parser.add_argument("--serve", action="store_true", help="answer a world a line until stdin ends")
    options = parser.parse_args(arguments)
    apps = _load_apps(options.apps)
    if not options.serve:
        _answer(apps, sys.stdin.buffer.read())
        return 0
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _answer(apps, line)
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if status != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
