"""``dragonflow lab …``: regions, hosts and VMs on one machine, to try things out, to test and to measure."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from dragonflow.cli.common import Json, fail

if TYPE_CHECKING:
    from dragonflow.lab import Lab

app = typer.Typer(
    no_args_is_help=True, help="Regions, hosts and VMs on this machine, as network namespaces. Needs root."
)

Name = Annotated[str, typer.Option("--name", help="The lab; several can stand side by side.")]
Region = Annotated[str | None, typer.Option("--region", help="The region; default the first.")]
HostOption = Annotated[str, typer.Option("--host", help="The host to plug into.")]
PortId = Annotated[str, typer.Argument(help="A Neutron port's id; of a plugged one, its beginning will do.")]
ProcessName = Annotated[str, typer.Argument(metavar="PROCESS", help="As `lab info` names it.")]
Store = Annotated[
    str, typer.Option(help="What keeps the DF DB: sqlite, etcd (three members), redis (three servers, and Sentinel).")
]
Bus = Annotated[str, typer.Option(help="What carries messages: zmq, redis, or store (the DF DB's own watch alone).")]
Command = Annotated[list[str], typer.Argument(metavar="-- CMD", help="The command, after two dashes.")]
DEFAULT = "lab"


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turn the lab's errors into a message and exit code 1."""
    try:
        from dragonflow.lab import LabError  # noqa: PLC0415 - the lab needs the extra [lab], which a compute host doesn't have
        from dragonflow.lab.vswitch import VSwitchError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise fail(f"{error.name} is missing: the lab comes with `pip install 'dragonflow[lab]'`") from error
    try:
        yield
    except (LabError, VSwitchError) as error:
        raise fail(str(error)) from error


def _lab(name: str) -> Lab:
    from dragonflow.lab import Lab  # noqa: PLC0415 - see errors()

    return Lab.open(name)


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, soft_wrap=True, markup=False)


@app.command()
def up(  # noqa: PLR0917 - typer calls it, by names
    name: Name = DEFAULT,
    hosts: Annotated[int, typer.Option(help="Hosts in each region.")] = 3,
    store: Store = "sqlite",
    bus: Bus = "zmq",
    regions: Annotated[int, typer.Option(help="Independent regions, each with its own Neutron and DF DB.")] = 1,
    neutron_servers: Annotated[int, typer.Option(help="Neutron's API servers in each region.")] = 1,
    orchestrators: Annotated[
        int | None, typer.Option(help="Instances of the orchestrator; default one, where there are several regions.")
    ] = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Have a bus that `lab lose` can tell to lose messages.")
    ] = False,
    disk: Annotated[
        int | None, typer.Option(help="MiB of a disk for the store alone, which `lab fill-disk` can fill.")
    ] = None,
) -> None:
    """Bring a lab up. What a crashed one of that name left is cleaned away first."""
    with errors():
        from dragonflow.lab import Lab  # noqa: PLC0415

        lab = Lab.up(
            name,
            hosts=hosts,
            store=store,
            bus=bus,
            regions=regions,
            neutron_servers=neutron_servers,
            orchestrators=orchestrators,
            lossy=lossy,
            disk=disk,
            progress=_say,
        )
    option = "" if name == DEFAULT else f" --name {name}"
    _say(f"lab {name!r} is up; `dragonflow lab info{option}` shows it, `dragonflow lab down{option}` takes it down")
    _say(f"`export OS_CLIENT_CONFIG_FILE={lab.between.clouds}`, then `openstack --os-cloud {lab.region().name} …`")


@app.command()
def info(name: Name = DEFAULT, as_json: Json = False) -> None:
    """Show what there is: regions, hosts, processes, VMs."""
    with errors():
        content = _lab(name).info()
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        _print(content)


@app.command()
def plug(
    port_id: Annotated[str, typer.Argument(help="A Neutron port's id.")],
    host: HostOption,
    region: Region = None,
    address: Annotated[
        Literal["static", "dhcp", "none"], typer.Option(help="static: as Neutron says; dhcp: by asking a server; none.")
    ] = "static",
    name: Name = DEFAULT,
) -> None:
    """Plug a VM for a port into a host, as os-vif does; prints the VM's network namespace."""
    with errors():
        vm = _lab(name).plug(port_id, host, region=region, address=address, warn=_say)
    _say(f"port {vm.port_id} is plugged in {vm.region} {vm.host}: {vm.mac} {' '.join(vm.ips)}")
    typer.echo(vm.netns)


@app.command()
def unplug(port_id: PortId, name: Name = DEFAULT) -> None:
    """Take a VM out; its namespace and what runs in it go too."""
    with errors():
        _lab(name).unplug(port_id)


@app.command()
def migrate(
    port_id: PortId,
    host: Annotated[str, typer.Argument(help="The host to move to.")],
    name: Name = DEFAULT,
) -> None:
    """Move a plugged VM to another host while it runs, as Nova does; prints the VM's new network namespace."""
    with errors():
        moved = _lab(name).migrate(port_id, host)
    _say(
        f"port {moved.vm.port_id} is on {host}: wired {moved.wired * 1000:.0f} ms after the plug there, "
        f"paused for {moved.paused * 1000:.0f} ms"
    )
    typer.echo(moved.vm.netns)


@app.command()
def peer(
    peer_name: Annotated[str, typer.Argument(metavar="NAME", help="A name for the machine.")],
    addresses: Annotated[list[str] | None, typer.Argument(help="Its addresses, with prefix lengths.")] = None,
    vlan: Annotated[int | None, typer.Option(help="The VLAN that it is in; without, it sends no tags.")] = None,
    region: Region = None,
    name: Name = DEFAULT,
) -> None:
    """Make a machine on the physical network, which Neutron knows nothing of; prints its network namespace."""
    with errors():
        typer.echo(_lab(name).peer(peer_name, *(addresses or ()), vlan=vlan, region=region))


@app.command()
def unpeer(peer_name: Annotated[str, typer.Argument(metavar="NAME")], name: Name = DEFAULT) -> None:
    """Remove a machine from the physical network."""
    with errors():
        _lab(name).unpeer(peer_name)


@app.command("exec")
def exec_(port_id: PortId, command: Command, name: Name = DEFAULT) -> None:
    """Run a command in a VM."""
    with errors():
        line = _lab(name).vm_command(port_id, command)
    _become(line)


@app.command()
def host(
    host_name: Annotated[str, typer.Argument(metavar="HOST")],
    command: Command,
    region: Region = None,
    name: Name = DEFAULT,
) -> None:
    """Run a command in a host, for instance `ovs-ofctl dump-flows br-int`."""
    with errors():
        line = _lab(name).host_command(host_name, command, region)
    _become(line)


@app.command()
def kill(process: ProcessName, name: Name = DEFAULT) -> None:
    """End a process without a warning (SIGKILL). Of a store without a process, the data become unreachable."""
    with errors():
        _lab(name).process(process).kill()


@app.command()
def stop(process: ProcessName, name: Name = DEFAULT) -> None:
    """Stop a process as a service manager would."""
    with errors():
        _lab(name).process(process).stop()


@app.command()
def start(
    process: ProcessName,
    clock: Annotated[
        str | None, typer.Option(help="Of a controller: by how much its time of day is off, as +1h or -30m.")
    ] = None,
    name: Name = DEFAULT,
) -> None:
    """Start a process again, on the data and configuration that it had."""
    with errors():
        _lab(name).start(process, clock=clock)


@app.command()
def partition(
    host: Annotated[str, typer.Argument(help="The host to cut off.")],
    seconds: Annotated[float | None, typer.Option(help="Heal after so many seconds; without, at `lab heal`.")] = None,
    refused: Annotated[
        bool, typer.Option("--refused", help="Connections are reset and refused, instead of getting no answer.")
    ] = False,
    region: Region = None,
    name: Name = DEFAULT,
) -> None:
    """Cut a host off from the DF DB's servers (and the bus's, if it has any): its connections hang."""
    with errors():
        from dragonflow.lab.uplink import BLACKHOLE, REFUSED  # noqa: PLC0415 - see errors()

        lab = _lab(name)
        lab.partition(host, region=region, mode=REFUSED if refused else BLACKHOLE)
        if seconds is not None:
            try:
                time.sleep(seconds)
            finally:
                lab.heal(host, region=region)


@app.command()
def heal(
    host: Annotated[str, typer.Argument(help="The host that was cut off.")], region: Region = None, name: Name = DEFAULT
) -> None:
    """Join a host again that was cut off."""
    with errors():
        _lab(name).heal(host, region=region)


@app.command()
def sever(
    one: Annotated[str, typer.Argument(metavar="REGION", help="A region.")],
    other: Annotated[str, typer.Argument(metavar="REGION", help="Another one.")],
    tunnels: Annotated[
        bool,
        typer.Option("--tunnels", help="Drop tunnels' packets only (UDP and GRE), as a firewall does: pings pass."),
    ] = False,
    name: Name = DEFAULT,
) -> None:
    """Cut the underlays of two regions apart, until `lab rejoin`: packets between them are dropped."""
    with errors():
        from dragonflow.lab.between import ALL, TUNNELS  # noqa: PLC0415 - see errors()

        _lab(name).sever(one, other, TUNNELS if tunnels else ALL)


@app.command()
def rejoin(
    one: Annotated[str, typer.Argument(metavar="REGION", help="A region.")],
    other: Annotated[str, typer.Argument(metavar="REGION", help="The one that it was cut off from.")],
    name: Name = DEFAULT,
) -> None:
    """Let packets pass again between two regions."""
    with errors():
        _lab(name).rejoin(one, other)


@app.command()
def lose(
    percent: Annotated[float, typer.Argument(help="How many of 100 messages; 0 ends it.", min=0, max=100)],
    region: Region = None,
    name: Name = DEFAULT,
) -> None:
    """Have every process of a lab that is --lossy lose some of the messages it gets."""
    with errors():
        _lab(name).lose(percent / 100, region)


@app.command()
def fill_disk(region: Region = None, name: Name = DEFAULT) -> None:
    """Fill the disk of the store's data (see `up --disk`)."""
    with errors():
        _lab(name).fill_disk(region)


@app.command()
def free_disk(region: Region = None, name: Name = DEFAULT) -> None:
    """Make room again on the disk of the store's data."""
    with errors():
        _lab(name).free_disk(region)


@app.command()
def down(name: Name = DEFAULT) -> None:
    """Take a lab down, also one that failed; nothing of it stays."""
    with errors():
        from dragonflow.lab import clean, state, system  # noqa: PLC0415

        system.require_root("dragonflow lab")
        with state.locked(name):
            found = clean(name)
    _say(f"lab {name!r} is down" if found else f"there is no lab {name!r} (there are: {system.listed(state.names())})")


def _become(line: list[str]) -> None:
    """Be the command from here on: its output, signals and exit code are the caller's."""
    try:
        os.execvp(line[0], line)
    except OSError as error:
        raise fail(f"{line[0]}: {error.strerror}") from error


def _print(content: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(f"clouds.yaml: {content['clouds']}", soft_wrap=True)
    for region in content["regions"]:
        console.print(
            f"[bold]{region['name']}[/]  Neutron {region['neutron_url']}  DF DB {region['dfdb_url']}  bus {region['pubsub_url']}",
            soft_wrap=True,
        )
        _table(console, region["hosts"], "name", "netns", "vtep", "openflow", "uplink")
        _table(console, region["processes"], "name", "pid", "role", "log")
    if content["processes"]:
        console.print("[bold]between the regions[/]")
        _table(console, content["processes"], "name", "pid", "role", "log")
    for cut in content["cuts"]:
        console.print(f"[bold red]cut apart[/] {' and '.join(cut['regions'])}: {cut['what']}")
    if content["vms"]:
        _table(console, content["vms"], "port_id", "region", "host", "netns", "mac", "ips")


def _table(console: Console, rows: list[dict[str, Any]], *columns: str) -> None:
    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("\n".join(row[key]) if isinstance(row[key], list) else str(row[key] or "-") for key in columns))
    console.print(table)


if __name__ == "__main__":
    app()
