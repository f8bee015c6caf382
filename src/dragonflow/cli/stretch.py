"""``dragonflow stretch …``: networks that reach over several OpenStacks. Marks them, and tells how they stand and what is wrong.

All it reads and writes lies in the regions' own Neutrons, so it works from anywhere that reaches them, orchestrator or not.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from dragonflow.cli.common import ConfigFiles, Json, fail, print_rows, printable
from dragonflow.config import ORCHESTRATOR, ORCHESTRATOR_OPTS, ConfigError, load
from dragonflow.regions import marks
from dragonflow.regions.agreement import Standing
from dragonflow.regions.cloud import Cloud, CloudError, Misconfigured, RegionApi, Unauthorized
from dragonflow.regions.consent import Pair, Place
from dragonflow.regions.diagnosis import diagnose
from dragonflow.regions.plan import Count
from dragonflow.regions.reading import Reading, foresee, read
from dragonflow.regions.settings import Settings
from dragonflow.regions.tunnels import tunnels
from dragonflow.regions.view import Underlay

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


class Known(NamedTuple):
    """What is known beforehand: the regions' APIs, the ways between them, and where an orchestrator answers, if one is known."""

    clouds: Mapping[str, RegionApi]
    underlays: Mapping[str, Underlay] = {}
    orchestrator: tuple[str, int] | None = None


def _known(clouds: Path | None, config: Sequence[str] | None, regions: Sequence[str] | None = None) -> Known:
    """The regions that are asked for; or else those of the orchestrator's configuration, or all of clouds.yaml."""
    settings = _settings(config)
    files = list(settings.clouds_files) if clouds is None and settings is not None else [clouds] if clouds else []
    names = _names(files)
    wanted = regions or (sorted(names) if settings is None else list(settings.regions))
    if unknown := [name for name in wanted if name not in names]:
        raise marks.MarkError(f"no region {unknown[0]!r}; clouds.yaml has: {', '.join(sorted(names))}")
    found = {name: Cloud(name, files=files, timeout=TIMEOUT) for name in wanted}
    return Known(found) if settings is None else Known(found, settings.regions, settings.status_address)


def _settings(config: Sequence[str] | None) -> Settings | None:
    """The orchestrator's configuration, if there is one here."""
    try:
        options = load(config or (), ORCHESTRATOR_OPTS, section=ORCHESTRATOR)[ORCHESTRATOR]
        return Settings.of(options) if options.regions or config else None
    except ConfigError as error:
        raise fail(str(error)) from error


def _names(files: Sequence[Path]) -> set[str]:
    """The clouds of clouds.yaml."""
    from openstack.config import OpenStackConfig  # noqa: PLC0415 - an optional dependency

    for file in files:
        if not file.is_file():
            raise marks.MarkError(f"{file}: there is no such file")
    config = OpenStackConfig(config_files=list(map(str, files)) or None, load_envvars=False)
    found = set(config.get_cloud_names()) - {"defaults"}
    if not found:
        raise marks.MarkError("there is no clouds.yaml that names a cloud; --clouds FILE says where it is")
    return found


@app.command()
def create(
    networks: Annotated[
        list[str],
        typer.Argument(metavar="REGION:NETWORK…", help="Two or more networks by name or id, in their regions."),
    ],
    clouds: CloudsFile = None,
    config_file: ConfigFiles = None,
    as_json: Json = False,
) -> None:
    """Stretch a network over regions: each side is marked for each other one. For who has the credentials of all."""
    with _errors():
        wanted = [marks.wanted(each) for each in networks]
        marks.distinct(wanted)
        known = _known(clouds, config_file, [each.region for each in wanted])
        places = [Place(each.region, marks.find(known.clouds, each).id) for each in wanted]
        named = list(permutations(places, 2))
        _refuse(foresee(known.clouds, named, known.underlays).pairs.items())
        for place, peer in named:
            marks.join(known.clouds[place.region], place, peer)
    _say([("joined", one, other) for one, other in combinations(places, 2)], as_json)


@app.command()
def join(
    network: Where,
    peer: Annotated[
        str,
        typer.Option("--with", metavar="REGION:NETWORK", help="The other side; by id if clouds.yaml lacks its region."),
    ],
    clouds: CloudsFile = None,
    config_file: ConfigFiles = None,
    as_json: Json = False,
) -> None:
    """Mark one side: the stretch begins when the other side has named this one too."""
    with _errors():
        here, there = marks.wanted(network), marks.wanted(peer)
        marks.distinct([here, there])
        known = _known(clouds, config_file)
        place = Place(here.region, marks.find(known.clouds, here).id)
        both = False
        if there.region in known.clouds:
            found = marks.find(known.clouds, there)
            other = Place(there.region, found.id)
            _refuse(foresee(known.clouds, [(place, other), (other, place)], known.underlays).pairs.items())
            both = marks.names(found, place)
        elif marks.is_id(there.network):
            other = Place(*there)
        else:
            raise marks.MarkError(
                f"clouds.yaml has no region {there.region!r}: give its network by id, not {there.network!r}"
            )
        marks.join(known.clouds[place.region], place, other)
    _say([("joined" if both else "waiting", place, other)], as_json)


@app.command()
def leave(
    network: Where,
    region: Annotated[
        str | None, typer.Option("--with", metavar="REGION", help="Part from this region alone; default: from all.")
    ] = None,
    clouds: CloudsFile = None,
    config_file: ConfigFiles = None,
    as_json: Json = False,
) -> None:
    """Take the marks of one side away: the stretch ends, and an orchestrator removes what stood for it."""
    with _errors():
        wanted = marks.wanted(network)
        known = _known(clouds, config_file, [wanted.region])
        found = marks.find(known.clouds, wanted)
        gone = marks.leave(known.clouds[wanted.region], found, region)
    place = Place(wanted.region, found.id)
    _say([("left", place, each) for each in gone], as_json)
    if not gone and not as_json:
        typer.echo(f"{place} named nobody{f' in {region}' if region else ''}")


@app.command("list")
def list_(
    clouds: CloudsFile = None, config_file: ConfigFiles = None, region: Regions = None, as_json: Json = False
) -> None:
    """All stretches: whether they stand, wait for the other side, or are refused, and why."""
    reading = _look(clouds, config_file, region)[0]
    rows = [_standing(reading, *each) for each in sorted(reading.agreement.pairs.items())]
    print_rows(f"{len(rows)} stretches", rows, COLUMNS["stretches"], as_json=as_json)
    _unread(reading)


@app.command()
def show(
    network: Where,
    clouds: CloudsFile = None,
    config_file: ConfigFiles = None,
    region: Regions = None,
    as_json: Json = False,
) -> None:
    """One stretched network: its side in each region, and what each knows of the others' ports."""
    with _errors():
        wanted = marks.wanted(network)
        known = _known(clouds, config_file, region)
        place = Place(wanted.region, marks.find(known.clouds, wanted).id)
        reading = read(known.clouds.values(), known.underlays)
    stretches = [each for each in sorted(reading.agreement.pairs.items()) if place in each[0]]
    sides = list(dict.fromkeys([place, *(pair.across(place.region) for pair, _ in stretches)]))
    content = {
        "stretches": [_standing(reading, *each) for each in stretches],
        "networks": [_side(reading, each) for each in sides if reading.network(each) is not None],
    }
    _print(content, as_json)
    _unread(reading)


@app.command()
def status(
    clouds: CloudsFile = None, config_file: ConfigFiles = None, region: Regions = None, as_json: Json = False
) -> None:
    """Regions, networks, ports announced and accepted, tunnels. Exit code 2: something is missing or down.

    With an orchestrator's configuration (--config-file) it also says how far each region lags behind, as that one sees it.
    """
    reading, orchestrator = _look(clouds, config_file, region)
    lags = {name: said.get("lag") for name, said in orchestrator.get("regions", {}).items()}
    content = {
        "regions": [_region(reading, name) | {"lag": lags.get(name)} for name in reading.regions],
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
def diagnose_(
    clouds: CloudsFile = None, config_file: ConfigFiles = None, region: Regions = None, as_json: Json = False
) -> None:
    """Name what is wrong, and what to do about it. Exit code 2: something is."""
    reading = _look(clouds, config_file, region)[0]
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


def _look(
    clouds: Path | None, config: Sequence[str] | None, regions: Sequence[str] | None
) -> tuple[Reading, dict[str, Any]]:
    """What the regions say, and what an orchestrator says if one is configured here and answers."""
    with _errors():
        known = _known(clouds, config, regions)
        return read(known.clouds.values(), known.underlays), _asked(known.orchestrator)


def _asked(address: tuple[str, int] | None) -> dict[str, Any]:
    if address is None:
        return {}
    host, port = address
    try:
        answer: dict[str, Any] = httpx.get(f"http://{f'[{host}]' if ':' in host else host}:{port}/status").json()
    except (httpx.HTTPError, ValueError):
        return {}
    return answer


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
    """Of the ports of other regions: how many a network is to know, how many it knows, how many of those are ACTIVE.

    And how many are in no security group there, for none goes by the name of theirs.
    """
    return {
        "wanted": sum(each.wanted for each in counts),
        "announced": sum(each.announced for each in counts),
        "accepted": sum(each.active for each in counts),
        "ungrouped": sum(each.ungrouped for each in counts),
    }


COLUMNS = {
    "regions": [
        "region",
        "api",
        "ms",
        "chassis",
        "alive",
        "networks",
        "wanted",
        "announced",
        "accepted",
        "behind",
        "lag",
    ],
    "stretches": ["name", "one", "other", "state", "reasons"],
    "networks": ["region", "name", "type", "segment", "mtu", "subnets", "wanted", "announced", "accepted", "ungrouped"],
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
