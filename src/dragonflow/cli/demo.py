"""``dragonflow demo``: one region on one machine, from Neutron's API to a ping and back to ACTIVE, shown as it happens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dragonflow.cli.lab import Bus, Store, errors

if TYPE_CHECKING:
    from dragonflow.lab import Lab
    from dragonflow.lab.scenario import Machine, Reached

HOSTS = 3
TITLES = {"sqlite": "SQLite", "etcd": "etcd", "redis": "Redis"}
WIDTH = 100
"""Columns of the tables where the output is no terminal."""


class _Show:
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


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up, and say how to look around.")] = False,
    name: Annotated[
        str, typer.Option("--name", help="The lab to make; one of that name is taken down first.")
    ] = "demo",
    store: Store = "sqlite",
    bus: Bus = "zmq",
    out: Annotated[Path, typer.Option("--out", help="Where to write the drawing.")] = Path("demo-out"),
) -> None:
    """Show it all on one machine: two tenants, three chassis, real packets. Exit code 1: something isn't as it should be."""
    show = _Show()
    with errors():
        from dragonflow.lab import Lab, clean, state, system  # noqa: PLC0415 - needs the extra [lab]

        system.require_root("dragonflow demo")
        with state.locked(name):
            if clean(name):
                show.step(f"took down the lab {name!r} that was there")
        show.step(
            f"bringing up a region: Neutron, its MariaDB, a Nova stand-in, the DF DB in {TITLES.get(store, store)}, three chassis"
        )
        lab = Lab.up(name, hosts=HOSTS, store=store, bus=bus, progress=show.step)
        try:
            found = _run(lab, show, out, TITLES[store])
        finally:
            if not keep:
                lab.down()
                show.step("took the lab down")
    if keep:
        _look_around(show.console, lab)
    for each in found:
        show.console.print(f"[bold red]✗[/] {each}", soft_wrap=True)
    if found:
        raise typer.Exit(1)
    show.console.print(f"[bold green]✓[/] everything as it should be, in {show.seconds:.0f} s")


def _run(lab: Lab, show: _Show, out: Path, store: str) -> list[str]:
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
    out.mkdir(parents=True, exist_ok=True)
    drawing = out / "topology.svg"
    hosts = [(host.name, host.vtep) for host in lab.region().hosts.values()]
    drawing.write_text(draw(hosts, machines, reached, failures=len(found), store=store))
    show.console.print(f"The topology as a drawing: [bold]{drawing.resolve()}[/]", soft_wrap=True)
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
    console.print(f"\nThe lab {lab.name!r} stays up. To look around (programs lie in .venv/bin):", soft_wrap=True)
    for what, command in lines:
        console.print(f"  {what:20} [bold]{command}[/]", soft_wrap=True)
