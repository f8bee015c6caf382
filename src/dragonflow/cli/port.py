"""``dragonflow show port``: all that is known of one port, and where each chassis places it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from dragonflow.cli.common import ConfigFiles, Contents, Json, StoreUrl, fail, print_rows, printable, read, store_url
from dragonflow.config import CONTROLLER_OPTS, GROUP, ConfigError, load
from dragonflow.model import Alive, Binding, FloatingIp, LogicalPort, PortStatus, remote_vtep
from dragonflow.observe.control import ControlError, ask

_BASES = {
    "seen": "its controller",
    "reported": "its report in the DF DB",
    "expected": "the DF DB",
}


def port(
    port_id: Annotated[str, typer.Argument(metavar="ID", help="A Neutron port's id; its beginning will do.")],
    config_file: ConfigFiles = None,
    store: StoreUrl = None,
    control_socket: Annotated[
        list[str] | None,
        typer.Option(help="The control socket of a controller, to ask how it sees the port. May be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """One port: its row, its bindings, where each chassis places it, what it says of it and why, and how controllers see it."""
    logging.getLogger("dragonflow").addHandler(logging.NullHandler())  # what apps complain of is shown beside the place
    contents = read(store_url(config_file, store))
    found = [row for row in contents.of(LogicalPort) if row.id.startswith(port_id)]
    if len(found) != 1:
        raise fail(f"{'several ports begin' if found else 'no port of the DF DB begins'} with {port_id}")
    (row,) = found
    asked = _ask(row.id, control_socket, config_file)
    shown: dict[str, Any] = {
        "port": msgspec.to_builtins(row),
        "bindings": [msgspec.to_builtins(it) for it in contents.of(Binding) if it.id == row.id],
        "places": _places(row, contents, asked),
        "statuses": [_status(it, _bound(row, contents)) for it in contents.of(PortStatus) if it.id == row.id],
        "controllers": asked,
    }
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
        return
    _print_port(row, shown)


def _ask(port_id: str, sockets: list[str] | None, config_file: list[str] | None) -> list[dict[str, Any]]:
    """What controllers know of the port, by default this host's; an error in words for each that doesn't answer."""
    answers: list[dict[str, Any]] = []
    try:
        for path in sockets or [load(config_file or (), CONTROLLER_OPTS)[GROUP].control_socket]:
            try:
                answers.append(ask(path, "port", port_id))
            except ControlError as error:
                answers.append({"error": str(error)})
    except ConfigError as error:
        answers.append({"error": str(error)})
    return answers


def _bound(port: LogicalPort, contents: Contents) -> LogicalPort | None:
    """The port of whose binding hosts speak when they speak of the port: of a floating IP's it is the one that it stands for.

    None if there is no such binding: for a router's gateway, a floating IP that forwards ports or stands for an unbound one
    (whose address guests share), and a port of another region.
    """
    if port.is_floating:
        fixed = {it.fixed_port for it in contents.of(FloatingIp) if it.port == port.id}
        return next((it for it in contents.of(LogicalPort) if it.id in fixed and it.chassis is not None), None)
    return None if port.gateway_network is not None or remote_vtep(port.chassis) is not None else port


def _status(status: PortStatus, port: LogicalPort | None) -> dict[str, Any]:
    """A status row, and whose word it is: only that of the present host, for the present binding, counts for the port.

    ``port`` is the one that is bound. Without a binding, the word of any chassis counts for as long as it serves.
    """
    present = 0 if port is None else port.generation
    if status.generation != present:
        counts = f"not: it speaks of binding {status.generation}, the present one is {present}"
    elif port is None or status.chassis == port.chassis:
        counts = "yes"
    else:
        counts = "not yet: prepared there" if status.chassis in port.standby else "not: the port is bound elsewhere"
    return {
        "chassis": status.chassis,
        "status": status.status,
        "reason": status.reason or None,
        "counts": counts,
        "age": round(max(0.0, time.time() - status.at), 1),
        "confirmed_revision": status.revision,
    }


def _places(port: LogicalPort, contents: Contents, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where each chassis that follows the port's network places it, and how that is known, the best way first:

    - seen: its controller was asked just now
    - reported: it has written that it has the port, wired and confirmed, for the present binding
    - expected: it must, by the rows of the DF DB; nothing tells whether its switch has it yet
    """
    from dragonflow.controller.expect import expect  # noqa: PLC0415 - the apps take time to load
    from dragonflow.controller.locality import plain  # noqa: PLC0415
    from dragonflow.pipeline.facts import Local  # noqa: PLC0415

    seen = {answer["chassis"]: answer for answer in asked if "error" not in answer}
    alive = {row.id for row in contents.of(Alive)}
    bound = _bound(port, contents)
    spoken_of = port.id, 0 if bound is None else bound.generation
    current = {it.chassis: it for it in contents.of(PortStatus) if (it.id, it.generation) == spoken_of}
    places = []
    for it in expect(port, contents.rows):
        place = None if it.place is None else _without_ofport(plain(it.place))
        status, answer = current.get(it.chassis), seen.pop(it.chassis, None)
        notes = list(it.troubles)
        basis = "expected"
        if answer is not None:
            basis = "seen"
            if _key(answer["place"]) != _key(place):
                notes.append(f"by the DF DB it should be {_where(place)}")
            if not answer["in_sync"]:
                notes.append("its switch doesn't have everything yet")
            place = answer["place"]
        elif status is not None and status.status == "ACTIVE" and isinstance(it.place, Local):
            basis = "reported"
        if status is not None and status.reason:
            notes.append(status.reason)
        if it.chassis not in alive:
            notes.append("its controller is not alive: the flows are those of when it was")
        places.append({"chassis": it.chassis, "place": place, "basis": basis, "notes": notes})
    for name, answer in sorted(seen.items()):
        notes = ["by the DF DB it doesn't follow the port's network"]
        places.append({"chassis": name, "place": answer["place"], "basis": "seen", "notes": notes})
    return places


def _without_ofport(place: dict[str, Any]) -> dict[str, Any]:
    """A place that was worked out: only its chassis knows the OpenFlow port."""
    return {name: None if name == "ofport" else value for name, value in place.items()}


def _key(place: dict[str, Any] | None) -> tuple[Any, ...]:
    """What of a place can be compared."""
    return () if place is None else tuple(place.get(name) for name in ("kind", "chassis", "address", "vlan"))


def _where(place: dict[str, Any] | None) -> str:
    """A place in words."""
    if place is None:
        return "nowhere"
    words = str(place["kind"])
    if place["kind"] == "remote":
        words += f" on {place['chassis']}" + (f" by {place['address']}" if place["address"] else "")
    if place.get("ofport") is not None:
        words += f", OpenFlow port {place['ofport']}"
    return words if place.get("vlan") is None else f"{words}, VLAN {place['vlan']}"


def _print_port(port: LogicalPort, shown: dict[str, Any]) -> None:
    console = Console(highlight=False)
    facts = {
        "name": printable(port.name),
        "network": port.network,
        "mac": port.mac,
        "ips": " ".join(port.ips),
        "switched on": "yes" if port.admin_up else "no",
        "bound to": port.chassis or "no chassis",
        "prepared on": " ".join(port.standby),
        "binding": f"{port.generation} ({port.vif_type})",
    }
    if port.qos is not None:
        facts["QoS policy"] = port.qos
    if port.parent is not None:
        facts["trunk"] = f"child of port {port.parent}, VLAN {port.vlan}"
    elif port.trunk is not None:
        facts["trunk"] = f"parent of trunk {port.trunk}"
    console.print(f"[bold]port {escape(port.id)}[/]", soft_wrap=True)
    for name, text in facts.items():
        console.print(f"  {name:<12} {escape(text) or '-'}", soft_wrap=True)
    places = [
        {
            "chassis": it["chassis"],
            "place": _where(it["place"]),
            "known by": _BASES[it["basis"]],
            "notes": it["notes"],
        }
        for it in shown["places"]
    ]
    print_rows("where chassis place it", places, ["chassis", "place", "known by", "notes"], as_json=False)
    columns = ["chassis", "status", "reason", "age", "counts"]
    print_rows("what chassis say of it (age in seconds)", shown["statuses"], columns, as_json=False)
    for answer in shown["controllers"]:
        _print_answer(console, answer)


def _print_answer(console: Console, answer: dict[str, Any]) -> None:
    """How one controller sees the port."""
    if "error" in answer:
        console.print(f"[bold]a controller[/]\n  {escape(answer['error'])}", soft_wrap=True)
        return
    console.print(f"[bold]the controller of {escape(answer['chassis'])}[/]", soft_wrap=True)
    console.print(f"  place        {escape(_where(answer['place']))}", soft_wrap=True)
    for name in ("said", "degraded"):
        if answer[name]:
            console.print(f"  {name:<12} {escape(_words(answer[name]))}", soft_wrap=True)
    probe = answer["probe"]
    if probe is None:
        console.print("  probe        none")
        return
    age = max(0.0, time.time() - probe["at"])
    console.print(f"  probe        {probe['verdict']}, {age:.1f} s ago", soft_wrap=True)
    for line in (probe["reason"], *probe["trace"]):
        if line:
            console.print(f"    {escape(line)}", soft_wrap=True)


def _words(values: Any) -> str:
    if isinstance(values, dict):
        return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, ""))
    return str(values)
