from __future__ import annotations

from dragonflow.store.pace import Pace


def test_what_comes_alone_is_hardly_waited_for_and_what_comes_without_end_longer_and_longer() -> None:
    pace = Pace()
    now = 100.0
    rests = []
    for _ in range(7):
        rests.append(pace.found(now))
        now = pace.over + Pace.NEAR / 2
    assert rests == [Pace.FIRST * 2**number for number in range(6)] + [Pace.MOST]
    assert pace.found(pace.over + Pace.NEAR) == Pace.FIRST
