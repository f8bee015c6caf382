"""Limits of connections: what is asked of a data path, told by what it has. tests/dataplane has the packets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from dragonflow.controller import limits
from dragonflow.controller.limits import Limiter
from dragonflow.model import zones
from dragonflow.switch.unixctl import CommandFailed, Unreachable


class Datapath:
    """ovs-vswitchd's control socket, as far as limits go."""

    def __init__(self) -> None:
        self.limits: dict[int, int] = {}
        self.asked: list[tuple[str, ...]] = []
        self.trouble: Exception | None = None

    async def ask(self, method: str, questions: Sequence[Sequence[str]]) -> list[str | CommandFailed]:
        if isinstance(self.trouble, Unreachable):
            raise self.trouble
        if isinstance(self.trouble, CommandFailed):
            return [self.trouble]
        ((datapath, *rest),) = questions
        assert datapath == "netdev@ovs-netdev"
        if method == "dpctl/ct-get-limits":
            told = (f"zone={zone},limit={limit},count=7\n" for zone, limit in self.limits.items())
            return ["default limit=0\n" + "".join(told)]
        self.asked.append((method.removeprefix("dpctl/ct-"), *rest))
        if method == "dpctl/ct-set-limits":
            self.limits |= {int(it.split("=")[1].split(",")[0]): int(it.split("=")[2]) for it in rest}
        else:
            for zone in rest[0].removeprefix("zone=").split(","):
                del self.limits[int(zone)]
        return [""]


_OF_A_PORT = zones.NUMBERS[0]


def kept(there: Datapath, limiter: Limiter, *steps: Callable[[], object]) -> None:
    """Run the limiter until it has nothing more to do after each step."""

    async def run() -> None:
        task = asyncio.create_task(limiter.run())
        for step in (lambda: None, *steps):
            step()
            for _ in range(20):
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())


def test_zones_get_their_limit_once_and_again_from_a_switch_that_forgot() -> None:
    there = Datapath()
    limiter = Limiter(there, "netdev", router=100, port=7)  # type: ignore[arg-type]

    def forgets() -> None:
        there.limits.clear()
        limiter.want([1, _OF_A_PORT], 2)

    kept(there, limiter, lambda: limiter.want([1], 1), lambda: limiter.want([1, _OF_A_PORT], 1), forgets)
    assert there.asked == [
        ("set-limits", "zone=1,limit=100"),
        ("set-limits", f"zone={_OF_A_PORT},limit=7"),
        ("set-limits", "zone=1,limit=100", f"zone={_OF_A_PORT},limit=7"),
    ]
    assert limiter.status == "connections: 100 for each of 1 routers and own addresses, 7 for each of 1 ports"


def test_a_changed_limit_is_set_and_none_taken_away() -> None:
    there = Datapath()
    there.limits = {1: 50, 7: 9}
    limiter = Limiter(there, "netdev", router=100, port=7)  # type: ignore[arg-type]
    kept(there, limiter, lambda: limiter.want([1], 1))
    assert there.limits == {1: 100, 7: 9}
    limiter = Limiter(there, "netdev", router=0, port=7)  # type: ignore[arg-type]
    kept(there, limiter, lambda: limiter.want([1, 2], 1))
    assert there.limits == {7: 9}


def test_a_data_path_that_cannot_is_told_of_and_one_that_is_away_is_asked_again(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(limits, "_AGAIN", 0)
    there = Datapath()
    there.trouble = CommandFailed("no limits here")
    limiter = Limiter(there, "netdev", router=100, port=7)  # type: ignore[arg-type]
    said = []

    def goes_away() -> None:
        said.append(limiter.status)
        there.trouble = Unreachable("nobody")
        limiter.want([1], 2)

    def comes_back() -> None:
        said.append(limiter.status)
        there.trouble = None

    kept(there, limiter, lambda: limiter.want([1], 1), goes_away, comes_back)
    assert said == ["not kept: no limits here", "not kept: nobody"]
    assert there.limits == {1: 100}
    assert limiter.status == "connections: 100 for each of 1 routers and own addresses, 7 for each of 0 ports"
