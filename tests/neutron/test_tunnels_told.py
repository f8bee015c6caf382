"""What of their tunnels to other regions is told in chassis' agents: as much as there is room for, and only what is news."""

from __future__ import annotations

import json

import pytest

from dragonflow.model import TunnelState
from dragonflow.neutron.tunnels import ROOM, Tunnel, by_chassis, is_news, with_tunnels

UP = Tunnel(True, 10.0, 1500)


def test_tunnels_are_told_by_where_they_lead():
    rows = [TunnelState(id=f"h1/{ip}", chassis="h1", remote_ip=ip, up=True, rtt_ms=1.5, at=7.0) for ip in "ab"]
    found = by_chassis([*rows, TunnelState(id="h2/a", chassis="h2", remote_ip="a", mtu=1400, at=8.0)])
    assert found == {"h1": dict.fromkeys("ab", Tunnel(True, 1.5, None)), "h2": {"a": Tunnel(None, None, 1400)}}
    shown = with_tunnels({"tunneling_ip": "192.0.2.1"}, found["h2"])
    assert shown == {
        "tunneling_ip": "192.0.2.1",
        "remote_tunnels": {"a": {"up": None, "rtt_ms": None, "mtu": 1400}},
    }
    assert with_tunnels({"tunneling_ip": "192.0.2.1"}, {}) == {"tunneling_ip": "192.0.2.1"}


@pytest.mark.parametrize(
    ("now", "news"),
    [
        (UP, False),
        (UP._replace(rtt_ms=12.0), False),
        (UP._replace(rtt_ms=14.0), True),
        (UP._replace(rtt_ms=7.0), True),
        (UP._replace(rtt_ms=None), True),
        (UP._replace(up=False), True),
        (UP._replace(up=None), True),
        (UP._replace(mtu=1400), True),
    ],
)
def test_a_round_trip_that_takes_a_little_longer_is_no_news(now, news):
    assert is_news({"a": UP}, {"a": now}) is news
    assert is_news({"a": now}, {"a": UP}) is news


def test_a_tunnel_that_comes_or_goes_is_news_and_noise_is_none():
    assert is_news({}, {"a": UP})
    assert is_news({"a": UP}, {})
    assert not is_news({}, {})
    assert not is_news({"a": UP._replace(rtt_ms=0.1)}, {"a": UP._replace(rtt_ms=0.5)})
    assert not is_news({"a": UP._replace(rtt_ms=None)}, {"a": UP._replace(rtt_ms=None)})


@pytest.mark.parametrize("base", [{}, {"bridge_mappings": {"physnet1": "br-ex" * 100}}, {"huge": "x" * 5000}])
@pytest.mark.parametrize("number", [1, 30, 200])
def test_those_that_are_down_come_first_where_there_is_no_room_for_all(base, number):
    tunnels = {f"2001:db8:ffff:ffff:ffff:ffff:ffff:{index:x}": UP for index in range(number)}
    tunnels["203.0.113.9"] = UP._replace(up=False, rtt_ms=None)
    tunnels["203.0.113.1"] = UP._replace(up=None, rtt_ms=None, mtu=None)
    full = with_tunnels(base, tunnels)
    shown, left_out = full["remote_tunnels"], full.get("remote_tunnels_left_out", 0)
    assert len(shown) + left_out == number + 2
    if "huge" in base:
        assert not shown
        return
    assert len(json.dumps(full)) <= ROOM
    assert [*shown][:2] == ["203.0.113.9", "203.0.113.1"]
    assert ROOM - len(json.dumps(full)) < 120 or not left_out, "there would have been room for more"
