"""``dragonflow stretch …``: networks that reach over several OpenStacks. Marks them, and tells how they stand and what is wrong.

All it reads and writes lies in the regions' own Neutrons, so it works from anywhere that reaches them, orchestrator or not.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dragonflow.cli.common import Json, fail, print_rows, printable
from dragonflow.regions import marks
from dragonflow.regions.agreement import Standing
from dragonflow.regions.cloud import Cloud, CloudError, Misconfigured, Unauthorized
from dragonflow.regions.consent import Pair, Place
from dragonflow.regions.diagnosis import diagnose
from dragonflow.regions.plan import Count
from dragonflow.regions.reading import Reading, foresee, read
from dragonflow.regions.tunnels import tunnels

app = typer.Typer(
    no_args_is_help=True,
    help="Networks that stretch over several OpenStacks. Regions are called as their clouds in clouds.yaml.",
)

CloudsFile = Annotated[
    Path | None,
    typer.Option(
        "--clouds",
        help="The clouds.yaml; default where all OpenStack clients look for it.",
        envvar="OS_CLIENT_CONFIG_FILE",
    ),
]
Regions = Annotated[
    list[str] | None,
    typer.Option("--region", help="Look at this region; may be repeated. Default: all of clouds.yaml."),
]
Where = Annotated[str, typer.Argument(metavar="REGION:NETWORK", help="A network by name or id, in its region.")]

TIMEOUT = 10.0
"""Seconds that a region may keep one waiting."""


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn what goes wrong into a message and exit code 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise fail(f"{error.name} is missing: this needs `pip install 'dragonflow[orchestrator]'`") from error
    except (marks.MarkError, CloudError) as error:
        raise fail(str(error)) from error


def _clouds(file: Path | None, regions: Sequence[str] | None = None) -> dict[str, Cloud]:
    """The regions that are asked for, by name; those of clouds.yaml if none is."""
    from openstack.config import OpenStackConfig  # noqa: PLC0415 - an optional dependency

    if file is not None and not file.is_file():
        raise marks.MarkError(f"{file}: there is no such file")
    files = [] if file is None else [file]
    config = OpenStackConfig(config_files=[str(file)] if file else None, load_envvars=False)
    known = set(config.get_cloud_names()) - {"defaults"}
    if not known:
        raise marks.MarkError("there is no clouds.yaml that names a cloud; --clouds FILE says where it is")
    if unknown := set(regions or ()) - known:
        raise marks.MarkError(f"no region {sorted(unknown)[0]!r}; clouds.yaml has: {', '.join(sorted(known))}")
    return {name: Cloud(name, files=files, timeout=TIMEOUT) for name in regions or sorted(known)}


@app.command()
def create(
    networks: Annotated[
        list[str],
        typer.Argument(metavar="REGION:NETWORK…", help="Two or more networks by name or id, in their regions."),
    ],
    clouds: CloudsFile = None,
    as_json: Json = False,
) -> None:
    """Stretch a network over regions: each side is marked for each other one. For who has the credentials of all."""
    with _errors():
        wanted = [marks.wanted(each) for each in networks]
        marks.distinct(wanted)
        known = _clouds(clouds, [each.region for each in wanted])
        places = [Place(each.region, marks.find(known, each).id) for each in wanted]
        named = list(permutations(places, 2))
        _refuse(foresee(known, named).pairs.items())
        for place, peer in named:
            marks.join(known[place.region], place, peer)
    _say([("joined", one, other) for one, other in combinations(places, 2)], as_json)


@app.command()
def join(
    network: Where,
    peer: Annotated[
        str,
        typer.Option("--with", metavar="REGION:NETWORK", help="The other side; by id if clouds.yaml lacks its region."),
    ],
    clouds: CloudsFile = None,
    as_json: Json = False,
) -> None:
    """Mark one side: the stretch begins when the other side has named this one too."""
    with _errors():
        here, there = marks.wanted(network), marks.wanted(peer)
        marks.distinct([here, there])
        known = _clouds(clouds)
        place = Place(here.region, marks.find(known, here).id)
        both = False
        if there.region in known:
            found = marks.find(known, there)
            other = Place(there.region, found.id)
            _refuse(foresee(known, [(place, other), (other, place)]).pairs.items())
            both = marks.names(found, place)
        elif marks.is_id(there.network):
            other = Place(*there)
        else:
            raise marks.MarkError(
                f"clouds.yaml has no region {there.region!r}: give its network by id, not {there.network!r}"
            )
        marks.join(known[place.region], place, other)
    _say([("joined" if both else "waiting", place, other)], as_json)


@app.command()
def leave(
    network: Where,
    region: Annotated[
        str | None, typer.Option("--with", metavar="REGION", help="Part from this region alone; default: from all.")
    ] = None,
    clouds: CloudsFile = None,
    as_json: Json = False,
) -> None:
    """Take the marks of one side away: the stretch ends, and an orchestrator removes what stood for it."""
    with _errors():
        wanted = marks.wanted(network)
        known = _clouds(clouds, [wanted.region])
        found = marks.find(known, wanted)
        gone = marks.leave(known[wanted.region], found, region)
    place = Place(wanted.region, found.id)
    _say([("left", place, each) for each in gone], as_json)
    if not gone and not as_json:
        typer.echo(f"{place} named nobody{f' in {region}' if region else ''}")


@app.command("list")
def list_(clouds: CloudsFile = None, region: Regions = None, as_json: Json = False) -> None:
    """All stretches: whether they stand, wait for the other side, or are refused, and why."""
    reading = _look(clouds, region)
    rows = [_standing(reading, *each) for each in sorted(reading.agreement.pairs.items())]
    print_rows(f"{len(rows)} stretches", rows, COLUMNS["stretches"], as_json=as_json)
    _unread(reading)


@app.command()
def show(network: Where, clouds: CloudsFile = None, region: Regions = None, as_json: Json = False) -> None:
    """One stretched network: its side in each region, and what each knows of the others' ports."""
    with _errors():
        wanted = marks.wanted(network)
        known = _clouds(clouds, region)
        place = Place(wanted.region, marks.find(known, wanted).id)
        reading = read(known.values())
    stretches = [each for each in sorted(reading.agreement.pairs.items()) if place in each[0]]
    sides = list(dict.fromkeys([place, *(pair.across(place.region) for pair, _ in stretches)]))
    content = {
        "stretches": [_standing(reading, *each) for each in stretches],
        "networks": [_side(reading, each) for each in sides if reading.network(each) is not None],
    }
    _print(content, as_json)
    _unread(reading)


@app.command()
def status(clouds: CloudsFile = None, region: Regions = None, as_json: Json = False) -> None:
    """Regions, networks, ports announced and accepted, tunnels. Exit code 2: something is missing or down."""
    reading = _look(clouds, region)
    content = {
        "regions": [_region(reading, name) for name in reading.regions],
        "stretches": [_standing(reading, *each) for each in sorted(reading.agreement.pairs.items())],
        "networks": [_side(reading, each) for each in reading.marked],
        "tunnels": [each._asdict() for each in tunnels(reading)],
    }
    _print(content, as_json)
    _unread(reading)
    if diagnose(reading):
        Console(stderr=True).print("[yellow]not all is well:[/] `dragonflow stretch diagnose` says what")
        raise typer.Exit(2)


@app.command("diagnose")
def diagnose_(clouds: CloudsFile = None, region: Regions = None, as_json: Json = False) -> None:
    """Name what is wrong, and what to do about it. Exit code 2: something is."""
    reading = _look(clouds, region)
    findings = diagnose(reading)
    if as_json:
        typer.echo(json.dumps([each._asdict() for each in findings], indent=2))
    else:
        console = Console(highlight=False)
        for each in findings:
            console.print(f"[bold red]{each.cause}[/]  {escape(printable(each.where))}", soft_wrap=True)
            console.print(f"  {escape(printable(each.detail))}", soft_wrap=True)
            console.print(f"  [green]→[/] {escape(printable(each.remedy))}", soft_wrap=True)
        if not findings:
            console.print(
                f"[green]nothing is wrong[/] in {len(reading.regions)} regions, {len(reading.marked)} networks"
            )
    if findings:
        raise typer.Exit(2)


def _look(clouds: Path | None, regions: Sequence[str] | None) -> Reading:
    with _errors():
        return read(_clouds(clouds, regions).values())


def _refuse(standings: Iterable[tuple[Pair, Standing]]) -> None:
    """:raises MarkError: two of the networks can't be one; nothing is marked then."""
    reasons = [reason for _, standing in standings if not standing.works for reason in standing.reasons]
    if reasons:
        raise marks.MarkError("nothing was marked, for these can't be one network:\n  " + "\n  ".join(reasons))


def _say(said: Sequence[tuple[str, Place, Place]], as_json: bool) -> None:
    """Tell what was done, to each pair."""
    if as_json:
        typer.echo(
            json.dumps([{"state": state, "one": str(one), "other": str(other)} for state, one, other in said], indent=2)
        )
        return
    for state, one, other in said:
        match state:
            case "joined":
                typer.echo(f"{one} and {other} name each other: an orchestrator joins them now")
            case "left":
                typer.echo(f"{one} no longer names {other}")
            case _:
                typer.echo(f"{one} names {other}, and waits for it: `dragonflow stretch join {other} --with {one}`")


def _unread(reading: Reading) -> None:
    """Say which regions are missing from what was shown."""
    for region in reading.regions.values():
        if region.error is not None:
            Console(stderr=True, highlight=False).print(
                f"[yellow]not read:[/] {escape(str(region.error))}", soft_wrap=True
            )


def _standing(reading: Reading, pair: Pair, standing: Standing) -> dict[str, Any]:
    names = [network.name for place in pair if (network := reading.network(place)) is not None]
    return {
        "name": " / ".join(dict.fromkeys(names)),
        "one": str(pair.one),
        "other": str(pair.other),
        "state": standing.state.value,
        "reasons": list(standing.reasons),
    }


def _region(reading: Reading, name: str) -> dict[str, Any]:
    region = reading.regions[name]
    counts = [reading.ports(place) for place in reading.marked if place.region == name]
    plan = reading.plans.get(name)
    return {
        "region": name,
        "api": _api(region.error),
        "error": None if region.error is None else str(region.error),
        "ms": round(region.seconds * 1000),
        "chassis": len(region.agents),
        "alive": sum(agent.alive for agent in region.agents),
        "networks": len(counts),
        **_ports(counts),
        "behind": None if plan is None else len(plan.steps),
        "troubles": [] if plan is None else [f"{it.home} in {it.place}: {it.reason}" for it in plan.troubles],
    }


def _api(error: CloudError | None) -> str:
    match error:
        case None:
            return "ok"
        case Unauthorized():
            return "refuses"
        case Misconfigured():
            return "unknown"
    return "down"


def _side(reading: Reading, place: Place) -> dict[str, Any]:
    network = reading.network(place)
    assert network is not None
    subnets = reading.subnets(place)
    return {
        "region": place.region,
        "id": place.network,
        "name": network.name,
        "type": network.network_type,
        "segment": network.segmentation_id,
        "mtu": network.mtu,
        "subnets": [each.cidr for each in subnets],
        "gateways": [each.gateway_ip for each in subnets if each.gateway_ip],
        "pools": [f"{pool.start} to {pool.end}" for each in subnets for pool in each.allocation_pools],
        "with": [str(peer) for peer in sorted(reading.agreement.partners.get(place, ()))],
        **_ports([reading.ports(place)]),
    }


def _ports(counts: Sequence[Count]) -> dict[str, int]:
    """Of the ports of other regions: how many a network is to know, how many it knows, and how many of those are ACTIVE."""
    return {
        "wanted": sum(each.wanted for each in counts),
        "announced": sum(each.announced for each in counts),
        "accepted": sum(each.active for each in counts),
    }


COLUMNS = {
    "regions": ["region", "api", "ms", "chassis", "alive", "networks", "wanted", "announced", "accepted", "behind"],
    "stretches": ["name", "one", "other", "state", "reasons"],
    "networks": ["region", "name", "type", "segment", "mtu", "subnets", "wanted", "announced", "accepted"],
    "tunnels": ["region", "host", "remote_region", "remote_ip", "up", "rtt_ms", "mtu", "needs"],
}
"""What is shown of each kind in tables; in JSON it is all."""


def _print(content: dict[str, list[dict[str, Any]]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(content, indent=2))
        return
    for kind, rows in content.items():
        if rows:
            print_rows(kind.capitalize(), rows, COLUMNS[kind], as_json=False)
