"""``dragonflow events``: what becomes of models and places on a host, as its controller confirms it."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from dragonflow.cli.common import ConfigFiles, fail, printable
from dragonflow.config import CONTROLLER_OPTS, GROUP, ConfigError, load
from dragonflow.observe.control import ControlError, ask, follow

_FOLLOWED = 10
"""Events of the past with which following begins, as other tools do."""

_RETRY = 0.2
"""Seconds between two tries to reach a controller that went."""

_COLOURS = {"created": typer.colors.GREEN, "updated": typer.colors.YELLOW, "deleted": typer.colors.RED}

_NOTICES = {
    "missed": "{count} events are missing here: they came faster than they were read, or are too old",
    "away": "the controller of {chassis} doesn't answer any more; waiting for it",
    "back": "connected again",
    "restarted": "a new controller of {chassis} answers: it sees everything created anew",
}


def events(
    follow_on: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as events come, also over restarts.")
    ] = False,
    last: Annotated[
        int | None, typer.Option(min=0, help="So many past events; default all that are kept, with --follow 10.")
    ] = None,
    config_file: ConfigFiles = None,
    control_socket: Annotated[str | None, typer.Option(help="The controller's control socket.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Show what this host's switch has confirmed: models created, updated, deleted; ports local, remote, distributed.

    Each with the object, the chassis that says it, the store revision, and the time from the news to the switch's barrier.
    """
    try:
        path = control_socket or load(config_file or (), CONTROLLER_OPTS)[GROUP].control_socket
        if follow_on:
            _follow(path, _FOLLOWED if last is None else last, as_json=as_json)
        else:
            chunk = ask(path, "events")
            kept = chunk["events"]
            for event in kept if last is None else kept[max(0, len(kept) - last) :]:
                _show(event, as_json=as_json)
    except (ConfigError, ControlError) as error:
        raise fail(str(error)) from error
    except KeyboardInterrupt:  # how one ends following
        pass


def _follow(path: str, last: int, *, as_json: bool) -> None:
    """Show events for ever. :raises ControlError: no controller answers at the very first."""
    where: dict[str, Any] = {"last": last}
    chassis, run = "", None
    while True:
        lost = run is not None
        try:
            for chunk in follow(path, "events", where):
                chassis = chunk["chassis"]
                if lost:
                    _notice("back" if chunk["run"] == run else "restarted", chassis, as_json=as_json)
                    lost = False
                run = chunk["run"]
                if chunk["missed"]:
                    _notice("missed", chassis, count=chunk["missed"], as_json=as_json)
                for event in chunk["events"]:
                    _show(event, as_json=as_json)
                where = {"run": run, "seq": chunk["next"]}
        except ControlError:
            if run is None:
                raise
        if not lost:
            _notice("away", chassis, as_json=as_json)
        time.sleep(_RETRY)


def _notice(kind: str, chassis: str, *, as_json: bool, **facts: int) -> None:
    """Say something about the stream itself: among the events for scripts, beside them for people."""
    if as_json:
        typer.echo(json.dumps({"notice": kind, "chassis": chassis, "at": round(time.time(), 6), **facts}))
    else:
        typer.secho(f"-- {_NOTICES[kind].format(chassis=printable(chassis), **facts)}", dim=True, err=True)


def _show(event: dict[str, Any], *, as_json: bool) -> None:
    typer.echo(json.dumps(event) if as_json else _line(event))


def _line(event: dict[str, Any]) -> str:
    seconds, fraction = divmod(event["at"], 1)
    at = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{int(fraction * 1000):03}"
    name = f' "{printable(event["name"])}"' if event["name"] else ""
    word = typer.style(f"{event['event']:<19}", fg=_COLOURS[event["event"].rpartition("_")[2]])
    revision = f"revision {event['revision']}, " if event["revision"] else ""
    said = f"{at} {printable(event['chassis'])} {word} {event['model']} {printable(event['id'])}{name}"
    left_out = f"; flows left out: {printable(event['left_out'])}" if event["left_out"] else ""
    return f"{said}{_details(event)} ({revision}{event['latency'] * 1000:.1f} ms){left_out}"


def _details(event: dict[str, Any]) -> str:
    """What there is to say beside the object's name."""
    if event["place"] is not None:
        was = f", was {_where(event['before'])}" if event["before"] is not None else ""
        return f" {_where(event['place'])}{was}"
    of = f" of port {printable(event['port'])}" if event["port"] not in (None, event["id"]) else ""
    return of + (f": {', '.join(event['fields'])}" if event["fields"] else "")


def _where(place: dict[str, Any]) -> str:
    """A place in words; a distributed port is everywhere."""
    if place["kind"] == "local":
        return f"at OpenFlow port {place['ofport']}"
    if place["kind"] == "remote":
        return f"on {printable(place['chassis'])}" + (f" by {place['address']}" if place["address"] else "")
    return "on every chassis"
