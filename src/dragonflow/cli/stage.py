"""What the demos share: their options, steps with the time since the start, a verdict, and hints for who looks around."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from dragonflow.lab import Lab

Keep = Annotated[bool, typer.Option("--keep", help="Leave the lab up, and say how to look around.")]
Name = Annotated[str, typer.Option("--name", help="The lab to make; one of that name is taken down first.")]
Out = Annotated[Path, typer.Option("--out", help="Where to write the drawing.")]

TITLES = {"sqlite": "SQLite", "etcd": "etcd", "redis": "Redis"}
WIDTH = 100
"""Columns of the tables where the output is no terminal."""


class Show:
    """Prints each step with the time since the start."""

    def __init__(self) -> None:
        console = Console(highlight=False)
        self.console = console if console.is_terminal else Console(highlight=False, width=WIDTH)
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def step(self, text: str) -> None:
        """One line of progress."""
        self.console.print(Text.assemble((f"[{self.seconds:5.1f} s] ", "dim"), text), soft_wrap=True)

    def drawing(self, file: Path, svg: str) -> None:
        """Write a drawing, and say where it is."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(svg)
        self.console.print(f"The topology as a drawing: [bold]{file.resolve()}[/]", soft_wrap=True)

    def verdict(self, failures: Sequence[str]) -> None:
        """The last word. :raises typer.Exit: something isn't as it should be."""
        for each in failures:
            self.console.print(f"[bold red]✗[/] {each}", soft_wrap=True)
        if failures:
            raise typer.Exit(1)
        self.console.print(f"[bold green]✓[/] everything as it should be, in {self.seconds:.0f} s")


@contextmanager
def stage(
    command: str, name: str, show: Show, what: str, *, hosts: int, regions: int = 1, store: str, bus: str, keep: bool
) -> Iterator[Lab]:
    """Bring a lab up, ``what`` it is in words, in the place of any of that name. It goes with the demo unless it is to ``keep``.

    :raises LabError: the caller is not root, or it can't be brought up.
    """
    from dragonflow.lab import Lab, clean, state, system  # noqa: PLC0415 - needs the extra [lab]

    system.require_root(command)
    with state.locked(name):
        if clean(name):
            show.step(f"took down the lab {name!r} that was there")
    show.step(f"bringing up {what}")
    lab = Lab.up(name, hosts=hosts, regions=regions, store=store, bus=bus, progress=show.step)
    try:
        yield lab
    finally:
        if not keep:
            lab.down()
            show.step("took the lab down")


def look_around(console: Console, name: str, lines: Iterable[tuple[str, str]]) -> None:
    """What one can type next: what it shows, and the command."""
    console.print(f"\nThe lab {name!r} stays up. To look around (programs lie in .venv/bin):", soft_wrap=True)
    for what, command in lines:
        console.print(f"  {what:20} [bold]{command}[/]", soft_wrap=True)
