"""``dragonflow demo-region``: one region on one machine, from Neutron's API to a ping and back to ACTIVE, shown as it happens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dragonflow.cli.lab import Bus, Store, errors
from dragonflow.cli.stage import TITLES, Keep, Name, Out, Show, look_around, stage

if TYPE_CHECKING:
    from dragonflow.lab import Lab
    from dragonflow.lab.scenario import Machine, Reached

HOSTS = 3


def demo_region(
    keep: Keep = False,
    name: Name = "demo",
    store: Store = "sqlite",
    bus: Bus = "zmq",
    out: Out = Path("demo-out"),
) -> None:
    """Show it all on one machine: two tenants, three chassis, real packets. Exit code 1: something isn't as it should be."""
    show = Show()
    what = f"a region: Neutron, its MariaDB, a Nova stand-in, the DF DB in {TITLES.get(store, store)}, three chassis"
    with (
        errors(),
        stage("dragonflow demo-region", name, show, what, hosts=HOSTS, store=store, bus=bus, keep=keep) as lab,
    ):
        found = _run(lab, show, out, TITLES[store])
    if keep:
        _look_around(show.console, lab)
    show.verdict(found)


def _run(lab: Lab, show: Show, out: Path, store: str) -> list[str]:
    """Play the scenario, show what came of it, and return what isn't as it should be."""
    from dragonflow.lab import scenario  # noqa: PLC0415
    from dragonflow.lab.drawing import draw  # noqa: PLC0415

    machines = scenario.make_tenants(lab)
    tenants = len({machine.tenant.name for machine in machines})
    show.step(
        f"made {tenants} tenants with the same IPv4 and IPv6 subnets, and {len(machines)} ports, by Neutron's REST API"
    )
    for machine in machines:
        scenario.plug(lab, machine)
        after = f"ACTIVE {machine.active * 1000:.0f} ms after the plug" if machine.active else f"still {machine.status}"
        show.step(f"plugged {machine.name} into {machine.host}: {after}")
    show.step("pinging from every VM to every other one, within and across tenants")
    reached = scenario.ping_all(machines)
    events = scenario.collect_events(lab, machines)
    scenario.collect_places(lab, machines)
    found = scenario.failures(lab, machines, reached)

    show.console.print(_matrix(machines, reached))
    show.console.print(_events(machines, events))
    show.console.print(_ports(lab, machines))
    hosts = [(host.name, host.vtep) for host in lab.region().hosts.values()]
    show.drawing(out / "topology.svg", draw(hosts, machines, reached, failures=len(found), store=store))
    return found


def _matrix(machines: Sequence[Machine], reached: Reached) -> Table:
    """Who reaches whom: rows send, columns answer."""
    from dragonflow.lab.scenario import FAMILIES, wanted  # noqa: PLC0415

    table = Table(
        title="Who reaches whom, by IPv4 and IPv6 (! = not as it should be)",
        title_justify="left",
        header_style="bold",
    )
    table.add_column("from \\ to")
    for machine in machines:
        table.add_column(machine.name.replace("-", "\n"), justify="center")
    for source in machines:
        row: list[Text] = []
        for target in machines:
            if source is target:
                row.append(Text("-", "dim"))
                continue
            answers = [version for version in FAMILIES if reached[source.name, target.name, version]]
            good = len(answers) == (len(FAMILIES) if wanted(source, target) else 0)
            text = "".join(map(str, answers)) or "·"
            row.append(Text(text, "green" if answers else "dim") if good else Text(f"{text}!", "bold red"))
        table.add_row(source.name, *row)
    return table


def _events(machines: Sequence[Machine], events: Sequence[dict[str, Any]]) -> Table:
    """What Nova was told, with seconds from the first plug."""
    names = {machine.port_id: machine.name for machine in machines}
    start = min((machine.vm.plugged for machine in machines if machine.vm is not None), default=0.0)
    table = Table(
        title="What Nova was told (Neutron gathers events for up to 2 s)", title_justify="left", header_style="bold"
    )
    for column in ("s after first plug", "event", "server", "port", "VM"):
        table.add_column(column, overflow="fold", justify="right" if column.startswith("s ") else "left")
    for event in events:
        if event.get("tag") in names:
            when = f"{event['time'] - start:.2f}"
            table.add_row(when, event["name"], event["server_uuid"][:8], event["tag"][:8], names[event["tag"]])
    return table


def _ports(lab: Lab, machines: Sequence[Machine]) -> Table:
    """The ports: where they are, as Neutron and as each chassis' controller say."""
    hosts = list(lab.region().hosts)
    table = Table(
        title="Ports, and what each chassis' controller has them as", title_justify="left", header_style="bold"
    )
    for column in (
        "port",
        "network",
        "addresses",
        "chassis",
        *(f"on {host}" for host in hosts),
        "status",
        "plug → ACTIVE",
    ):
        table.add_column(column, justify="right" if "→" in column else "left")
    for machine in machines:
        places = [
            Text(kind, "green" if kind == "local" else "")
            for kind in map(machine.places.get, hosts, ["none"] * len(hosts))
        ]
        status = Text(machine.status, "green" if machine.status == "ACTIVE" else "bold red")
        took = "-" if machine.active is None else f"{machine.active * 1000:.0f} ms"
        table.add_row(
            machine.name, machine.network, "\n".join(machine.ips.values()), machine.host, *places, status, took
        )
    return table


def _look_around(console: Console, lab: Lab) -> None:
    option = "" if lab.name == "lab" else f" --name {lab.name}"
    vm = next(iter(lab.vms.values()), None)
    port = vm.port_id[:8] if vm else "PORT"
    socket = lab.region().hosts["host1"].control_socket
    lines = (
        ("what there is", f"dragonflow lab info{option}"),
        ("a VM", f"dragonflow lab exec{option} {port} -- ip address"),
        ("flows of a chassis", f"dragonflow lab host{option} host1 -- ovs-ofctl -O OpenFlow15 dump-flows br-int"),
        ("a controller", f"dragonflow status --control-socket {socket}"),
        ("what happens there", f"dragonflow events --follow --control-socket {socket}"),
        ("the DF DB", f"dragonflow show ports --store-url {lab.region().store.url}"),
        ("Neutron", f"openstack --os-auth-type none --os-endpoint {lab.region().neutron.url} port list"),
        ("a fault", f"dragonflow lab kill{option} controller-host1"),
        ("the end", f"dragonflow lab down{option}"),
    )
    look_around(console, lab.name, lines)
