"""``dragonflow demo``: one network over two regions on one machine, joined, moved within and left, shown as it happens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dragonflow.cli.lab import Bus, Store, errors
from dragonflow.cli.stage import TITLES, Keep, Name, Out, Show, look_around, stage

if TYPE_CHECKING:
    from dragonflow.lab import Lab
    from dragonflow.lab.stretched import Reached, Story

REGIONS, HOSTS = 2, 2
NAMES = ("ada", "ben", "cleo", "dora")
"""Of the VMs, in the order of regions and chassis."""


def demo(
    keep: Keep = False,
    name: Name = "demo",
    store: Store = "sqlite",
    bus: Bus = "zmq",
    out: Out = Path("demo-out"),
) -> None:
    """Show it on one machine: two OpenStacks, one network over both, packets. Exit code 1: something isn't as it should be."""
    show = Show()
    what = (
        f"two regions: each a Neutron with its MariaDB, a DF DB in {TITLES.get(store, store)} and two chassis; their underlays "
        "joined by IP alone; and an orchestrator, which knows their APIs and nothing else"
    )
    with (
        errors(),
        stage(
            "dragonflow demo", name, show, what, hosts=HOSTS, regions=REGIONS, store=store, bus=bus, keep=keep
        ) as lab,
    ):
        found = _run(lab, show, out, leave=not keep)
    if keep:
        _look_around(show.console, lab)
    show.verdict(found)


def _run(lab: Lab, show: Show, out: Path, *, leave: bool) -> list[str]:
    """Play the story, show what came of it, and return what isn't as it should be."""
    from dragonflow.lab.stretched import failures  # noqa: PLC0415
    from dragonflow.lab.stretched_drawing import draw  # noqa: PLC0415

    story = _play(lab, show)
    if leave:
        _part(lab, show, story)
    found = failures(story)
    show.console.print(_reached(story))
    show.console.print(_guests(story))
    hosts = {region.name: [(it.name, it.vtep) for it in region.hosts.values()] for region in lab.regions.values()}
    show.drawing(out / "regions.svg", draw(hosts, story, failures=len(found)))
    return found


def _play(lab: Lab, show: Show) -> Story:
    """Everything up to where one side leaves."""
    from dragonflow.lab import stretched  # noqa: PLC0415

    story = stretched.Story(sides=stretched.make_sides(lab))
    for side in story.sides:
        show.step(
            f"{side.region}: made the network {stretched.NETWORK}, which it calls {side.segmentation_id} on the wire"
        )
    for side in story.sides:
        for host in lab.region(side.region).hosts:
            guest = stretched.boot(lab, side, host, NAMES[len(story.guests)])
            story.guests.append(guest)
            after = f"ACTIVE {guest.active * 1000:.0f} ms after the plug" if guest.active else f"still {guest.status}"
            where = f"{guest.name} ({', '.join(guest.ips.values())}) into {guest.region} {guest.host}"
            show.step(f"plugged {where}: {after}")
    show.step("pinging from every VM to every other one: two networks as yet, each in its region")
    story.apart = stretched.ping_all(story.guests)

    one, other = story.sides
    show.step(
        f"dragonflow stretch create {one.region}:{stretched.NETWORK} {other.region}:{stretched.NETWORK}: "
        "each side names the other"
    )
    stretched.join(lab, story.sides)
    story.joined_after = stretched.wait_until_joined(lab, story.sides, story.guests)
    if story.joined_after is not None:
        show.step(
            f"each region knows the other's ports, and they are ACTIVE, {story.joined_after:.1f} s after the last mark"
        )
    story.tunnels = stretched.tunnels(lab)
    show.step(f"{len(story.tunnels)} tunnels were made, from chassis to chassis of the other region; pinging again")
    story.joined = stretched.ping_all(story.guests)

    guest, watcher = story.guests[0], story.guests[-1]
    target = next(host for host in lab.region(guest.region).hosts if host != guest.host)
    show.step(f"moving {guest.name} from {guest.host} to {target} while {watcher.name} pings it 200 times a second")
    moved = story.moved = stretched.move(lab, guest, target, watcher)
    show.step(
        f"paused for {moved.paused * 1000:.0f} ms, and without an answer for {moved.silent * 1000:.0f} ms, "
        f"as seen from {watcher.region}"
    )
    return story


def _part(lab: Lab, show: Show, story: Story) -> None:
    """One side leaves, and nothing of the other stays."""
    from dragonflow.lab import stretched  # noqa: PLC0415

    side = story.sides[-1]
    show.step(f"dragonflow stretch leave {side.region}:{stretched.NETWORK}: that side takes its word back")
    stretched.leave(lab, side)
    story.left_after = stretched.wait_until_left(lab, story.sides)
    story.remains = stretched.remains(lab, story.sides)
    if story.left_after is not None:
        show.step(
            f"nothing of it is left in Neutron, in the DF DBs and in the switches, {story.left_after:.1f} s later; pinging"
        )
    story.left = stretched.ping_all(story.guests)


def _reached(story: Story) -> Table:
    """Who reaches whom, at each stage."""
    table = Table(
        title="Who reaches whom, by IPv4 and IPv6 (! = not as it should be)", title_justify="left", header_style="bold"
    )
    stages: list[tuple[str, Reached, bool]] = [
        ("apart", story.apart, False),
        ("joined", story.joined, True),
        ("left", story.left, False),
    ]
    table.add_column("from")
    table.add_column("to")
    shown = [stage for stage in stages if stage[1]]
    for title, _, _ in shown:
        table.add_column(title, justify="center")
    for source in story.guests:
        for target in story.guests:
            if source is not target:
                cells = [_cell(story, reached, source.name, target.name, joined) for _, reached, joined in shown]
                table.add_row(source.name, target.name, *cells)
    return table


def _cell(story: Story, reached: Reached, source: str, target: str, stretched: bool) -> Text:
    from dragonflow.lab.scenario import FAMILIES  # noqa: PLC0415
    from dragonflow.lab.stretched import wanted  # noqa: PLC0415

    regions = {guest.name: guest.region for guest in story.guests}
    answers = [version for version in FAMILIES if reached[source, target, version]]
    good = len(answers) == (len(FAMILIES) if wanted(regions, source, target, stretched=stretched) else 0)
    text = " ".join(map(str, answers)) or "·"
    return Text(text, "green" if answers else "dim") if good else Text(f"{text}!", "bold red")


def _guests(story: Story) -> Table:
    """The VMs: where they are."""
    table = Table(title="VMs of the stretched network", title_justify="left", header_style="bold")
    for column in ("VM", "region", "chassis", "addresses", "status", "plug → ACTIVE"):
        table.add_column(column, justify="right" if "→" in column else "left")
    for guest in story.guests:
        took = "-" if guest.active is None else f"{guest.active * 1000:.0f} ms"
        status = Text(guest.status, "green" if guest.status == "ACTIVE" else "bold red")
        table.add_row(guest.name, guest.region, guest.host, "\n".join(guest.ips.values()), status, took)
    return table


def _look_around(console: Console, lab: Lab) -> None:
    option = "" if lab.name == "lab" else f" --name {lab.name}"
    vm = next(iter(lab.vms.values()), None)
    first, second = lab.regions.values()
    lines = (
        ("for what follows", f"export OS_CLIENT_CONFIG_FILE={lab.between.clouds}"),
        ("stretched networks", "dragonflow stretch status"),
        ("what there is", f"dragonflow lab info{option}"),
        ("a VM", f"dragonflow lab exec{option} {vm.port_id[:8] if vm else 'PORT'} -- ip address"),
        ("a region's Neutron", f"openstack --os-cloud {second.name} port list"),
        ("a line that dies", f"dragonflow lab sever{option} {first.name} {second.name}; dragonflow stretch diagnose"),
        ("and lives again", f"dragonflow lab rejoin{option} {first.name} {second.name}"),
        ("one side leaves", f"dragonflow stretch leave {second.name}:blue"),
        ("the end", f"dragonflow lab down{option}"),
    )
    look_around(console, lab.name, lines)
