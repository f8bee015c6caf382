"""``dragonflow drops``: what port security and security groups refuse on a host, as its controller sees it."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Annotated, Any

import typer

from dragonflow.cli.common import ConfigFiles, fail, printable
from dragonflow.config import CONTROLLER_OPTS, GROUP, ConfigError, load
from dragonflow.observe.control import ControlError, follow

_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 58: "icmpv6", 112: "vrrp", 132: "sctp"}
_ARP = 0x0806

_NOTICES = {"watching": "watching {}", "waiting": "the switch of {} doesn't have the flows yet; waiting for it"}


def drops(
    *,
    follow_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    seconds: Annotated[float, typer.Option(min=1.0, help="How long to look, without --follow.")] = 5.0,
    port: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this port of the host; the beginning of its id will do.")
    ] = None,
    config_file: ConfigFiles = None,
    control_socket: Annotated[str | None, typer.Option(help="The controller's control socket.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Show which packets this host refuses: of which port, why, from whom to whom; at the end how many of each port there were.

    They are told only while somebody looks, of a port some 10 a second each way. What isn't shown is counted all the same.
    """
    total: Counter[tuple[str, str]] = Counter()
    try:
        path = control_socket or load(config_file or (), CONTROLLER_OPTS)[GROUP].control_socket
        began, watching = None, False
        for number, chunk in enumerate(follow(path, "drops", {"port": port})):
            if chunk["watching"] and not watching:
                watching, began = True, time.monotonic()
                _notice("watching", chunk["chassis"], as_json=as_json)
            elif number == 1 and not watching:
                _notice("waiting", chunk["chassis"], as_json=as_json)
            _show(chunk, total, as_json=as_json)
            if not follow_on and began is not None and time.monotonic() - began >= seconds:
                break
        else:
            raise ControlError(f"{path}: the controller has ended")
    except (ConfigError, ControlError) as error:
        raise fail(str(error)) from error
    except KeyboardInterrupt:  # how one ends following
        pass
    finally:
        if not as_json:
            _sum(total)


def _notice(kind: str, chassis: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"notice": kind, "chassis": chassis, "at": round(time.time(), 3)}))
    else:
        typer.secho(f"-- {_NOTICES[kind].format(printable(chassis))}", dim=True, err=True)


def _show(chunk: dict[str, Any], total: Counter[tuple[str, str]], *, as_json: bool) -> None:
    for drop in chunk["drops"]:
        total[drop["port"], drop["direction"]] += drop["count"]
        typer.echo(json.dumps({"chassis": chunk["chassis"], **drop}) if as_json else _line(drop))
    for it in chunk["unshown"]:
        total[it["port"], it["direction"]] += it["count"]
        if as_json:
            typer.echo(json.dumps({"notice": "unshown", "chassis": chunk["chassis"], **it}))
        else:
            said = f"-- port {printable(it['port'])} {it['direction']}: {it['count']} more, not shown"
            typer.secho(said, dim=True, err=True)


def _sum(total: Counter[tuple[str, str]]) -> None:
    for (port, direction), count in total.most_common():
        typer.secho(f"-- port {printable(port)} {direction}: {count} packets refused", dim=True, err=True)


def _line(drop: dict[str, Any]) -> str:
    seconds, fraction = divmod(drop["at"], 1)
    at = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{int(fraction * 1000):03}"
    name = f' "{printable(drop["name"])}"' if drop["name"] else ""
    addresses = f" ({' '.join(drop['addresses'])})" if drop["addresses"] else ""
    times = f" ({drop['count']} times)" if drop["count"] > 1 else ""
    why = typer.style(drop["why"], fg=typer.colors.RED)
    return f"{at} {drop['direction']:<7} port {printable(drop['port'])}{name}{addresses}: {why}: {packet(drop['packet'])}{times}"


def packet(it: dict[str, Any]) -> str:
    """A packet's headers in words: MACs, then what is in it."""
    macs = f"{it.get('eth_src', '?')} > {it.get('eth_dst', '?')}"
    kind = it.get("eth_type", 0)
    if "source" not in it:
        return f"{macs} EtherType {kind:#06x}"
    if kind == _ARP:
        return f"{macs} arp {it['source']} ({it['claimed_mac']}) > {it['destination']}"
    protocol = it.get("protocol")
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}") if protocol is not None else "ip"
    ends = [_end(it[side], it.get(f"{side}_port")) for side in ("source", "destination")]
    icmp = f" type {it['icmp_type']} code {it['icmp_code']}" if "icmp_type" in it else ""
    target = f" about {it['target']}" if "target" in it else ""
    return f"{macs} {name} {' > '.join(ends)}{icmp}{target}"


def _end(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
