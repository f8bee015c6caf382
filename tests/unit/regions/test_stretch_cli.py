"""`dragonflow stretch`, on regions in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fleet import V4, Fleet
from typer.testing import CliRunner

from dragonflow.cli import stretch
from dragonflow.cli.main import app
from dragonflow.regions.consent import Place, tag


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet("a", "b", "c")

    def known(_: Path | None, __: Sequence[str] | None, regions: Sequence[str] | None = None) -> stretch.Known:
        return stretch.Known({name: made.clouds[name] for name in regions or made.clouds}, made.underlays)

    monkeypatch.setattr(stretch, "_known", known)
    return made


def run(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["stretch", *args])
    assert result.exit_code == code, result.output
    return result.output


def shown(*args: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["stretch", *args, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def tags(fleet: Fleet, place: Place) -> set[str]:
    return set(fleet.clouds[place.region].all_networks[place.network].tags)


def test_create_has_each_name_each_other(fleet: Fleet) -> None:
    places = [fleet.network(region, name="blue") for region in "abc"]
    run("create", "a:blue", "b:blue", f"c:{places[2].network}")
    for place in places:
        assert tags(fleet, place) == {tag(peer) for peer in places if peer != place}
    assert [it["state"] for it in shown("list")] == ["stretched"] * 3


def test_create_marks_nothing_where_networks_can_not_be_one(fleet: Fleet) -> None:
    one, other = fleet.network("a", name="blue"), fleet.network("b", name="blue", network_type="vlan")
    fleet.change_subnet(other, V4, gateway_ip=None)
    output = run("create", "a:blue", "b:blue", code=1)
    assert "the gateway is 192.0.2.1 in a, none in b" in output
    assert "is of type vlan" in output
    assert not tags(fleet, one)
    assert not tags(fleet, other)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["create", "a:blue"], "two regions at least"),
        (["create", "a:blue", "a:red"], "in one region"),
        (["create", "a:blue", "blue"], "REGION:NETWORK"),
        (["create", "a:blue", "b:none"], "no network 'none' in b"),
        (["create", "a:blue", "b:twice"], "several networks"),
        (["join", "a:blue", "--with", "far:blue"], "give its network by id"),
    ],
)
def test_what_makes_no_sense_is_told_plainly(fleet: Fleet, args: list[str], message: str) -> None:
    fleet.network("a", name="blue")
    fleet.network("b", name="twice")
    fleet.network("b", name="twice")
    output = " ".join(run(*args, code=1).split())
    assert message in output


def test_one_side_joins_then_the_other(fleet: Fleet) -> None:
    one, other = fleet.network("a", name="blue"), fleet.network("b", name="blue")
    assert shown("join", "a:blue", "--with", "b:blue") == [{"state": "waiting", "one": str(one), "other": str(other)}]
    (listed,) = shown("list")
    assert listed["state"] == "waiting"
    assert "has not joined" in listed["reasons"][0]
    assert shown("join", "b:blue", "--with", "a:blue")[0]["state"] == "joined"
    assert shown("list")[0]["state"] == "stretched"


def test_a_region_without_credentials_is_joined_by_its_networks_id(fleet: Fleet) -> None:
    one, far = fleet.network("a", name="blue"), Place("far", fleet.new_id())
    shown("join", "a:blue", "--with", str(far))
    assert tags(fleet, one) == {tag(far)}


def test_leaving_takes_only_the_marks_and_only_those_that_are_meant(fleet: Fleet) -> None:
    places = [fleet.network(region, name="blue", tags=("web",)) for region in "abc"]
    fleet.name_each_other(*places)
    assert [it["other"] for it in shown("leave", "a:blue", "--with", "b")] == [str(places[1])]
    assert tags(fleet, places[0]) == {"web", tag(places[2])}
    shown("leave", "a:blue")
    assert tags(fleet, places[0]) == {"web"}
    assert shown("leave", "a:blue") == []


def test_status_counts_what_is_announced_and_accepted(fleet: Fleet) -> None:
    one, other = fleet.network("a", name="blue"), fleet.network("b", name="blue")
    fleet.name_each_other(one, other)
    fleet.port(one, 10)
    before = shown("status", code=2)
    assert [(it["region"], it["wanted"], it["announced"], it["behind"]) for it in before["regions"]] == [
        ("a", 0, 0, 0),
        ("b", 1, 0, 1),
        ("c", 0, 0, 0),
    ]
    fleet.settle()
    for cloud in fleet.clouds.values():
        for host, agent in cloud.all_agents.items():
            cloud.all_agents[host] = msgspec.structs.replace(agent, alive=True)
    network = next(it for it in shown("status")["networks"] if it["region"] == "b")
    assert (network["wanted"], network["announced"], network["accepted"]) == (1, 1, 0)
    assert "blue" in run("status")
    assert [it["pools"] for it in shown("show", "a:blue")["networks"]] == [
        ["192.0.2.10 to 192.0.2.19"],
        ["192.0.2.20 to 192.0.2.29"],
    ]


def test_a_region_that_is_away_is_shown_as_such(fleet: Fleet) -> None:
    fleet.clouds["b"].away = True
    content = shown("status", code=2)
    assert [it["api"] for it in content["regions"]] == ["ok", "down", "ok"]
    (finding,) = shown("diagnose", code=2)
    assert finding["cause"] == "region-api-down"
    assert "region-api-down" in run("diagnose", code=2)
    fleet.clouds["b"].away = False
    assert "nothing is wrong" in run("diagnose")
