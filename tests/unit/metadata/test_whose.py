"""The proxy asks the controller, by its real control socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dragonflow.metadata.main import Controller
from dragonflow.metadata.proxy import Unknown
from dragonflow.metadata.whose import Asker, Instance, Whose
from dragonflow.observe.control import ControlServer

MINE = Instance("i", "p", "10.0.0.7")


class Answers:
    """What the controller would say."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.said: Any = Whose(MINE, True)

    def __call__(self, asker: Any) -> Any:
        self.asked.append(asker)
        return self.said


@pytest.fixture
async def answers(tmp_path: Path) -> AsyncIterator[Answers]:
    it = Answers()
    path = tmp_path / "control.sock"
    serving = asyncio.create_task(ControlServer(str(path), {"metadata": it}).run())
    while not path.exists():
        await asyncio.sleep(0.01)
    yield it
    serving.cancel()
    await asyncio.wait([serving])


async def test_the_controller_says_whose_port_it_is(answers: Answers, tmp_path: Path) -> None:
    controller = Controller(str(tmp_path / "control.sock"))
    assert await controller.whose(Asker(11, None)) == MINE
    assert answers.asked == [[11, None]]
    answers.said = Whose(None, True)
    assert await controller.whose(Asker(12, 3)) is None


@pytest.mark.parametrize("said", [Whose(None, False), "nonsense"])
async def test_a_controller_that_does_not_know_yet_makes_nobody_a_stranger(
    answers: Answers, tmp_path: Path, said: object
) -> None:
    answers.said = said
    with pytest.raises(Unknown):
        await Controller(str(tmp_path / "control.sock")).whose(Asker(11, 0))


async def test_without_a_controller_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(Unknown, match="does not say"):
        await Controller(str(tmp_path / "nobody.sock")).whose(Asker(11, 0))
