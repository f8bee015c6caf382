"""The options of ``[orchestrator]``, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dragonflow import secrecy
from dragonflow.config import ORCHESTRATOR, ConfigError
from dragonflow.pubsub import open_pubsub
from dragonflow.regions.consent import check_region
from dragonflow.regions.view import Underlay
from dragonflow.store import open_store
from dragonflow.store.protocol import StoreError


class Bus(msgspec.Struct, frozen=True):
    """Where a region tells of its ports' statuses."""

    pubsub_url: str
    store_url: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an orchestrator needs to know. Times are in seconds."""

    regions: Mapping[str, Underlay]
    clouds_files: tuple[Path, ...] = ()
    period: float = 5.0
    timeout: float = 20.0
    concurrency: int = 4
    election: str | None = None
    lease_ttl: float = 3.0
    status_address: tuple[str, int] = ("127.0.0.1", 9599)
    hints: Mapping[str, Bus] = {}

    @property
    def urls(self) -> Iterator[tuple[str, str]]:
        """The DF DBs and buses that are used, each with the option that names it."""
        if self.election is not None:
            yield "election", self.election
        for bus in self.hints.values():
            yield "hints", bus.store_url
            yield "hints", bus.pubsub_url

    @classmethod
    def of(cls, options: Any) -> Settings:
        """Read the option group. :raises ConfigError: names the option and the fix."""
        regions = list(dict.fromkeys(options.regions))
        if not regions:
            raise _wrong("regions", "name the clouds of clouds.yaml whose networks may be stretched")
        try:
            for region in regions:
                check_region(region)
        except ValueError as error:
            raise _wrong("regions", str(error)) from error
        for option, named in (("path_mtu", options.path_mtu), ("ipsec", options.ipsec)):
            for region in named:
                if region not in regions:
                    raise _wrong(option, f"{region!r} is none of the option regions")
        paths = {region: _number("path_mtu", text) for region, text in options.path_mtu.items()}
        if options.election is not None:
            _checked("election", open_store, options.election)
        return cls(
            regions={name: Underlay(paths.get(name), name in options.ipsec) for name in regions},
            clouds_files=() if options.clouds_file is None else (_file(options.clouds_file),),
            period=options.period,
            timeout=options.timeout,
            concurrency=options.concurrency,
            election=options.election,
            lease_ttl=options.lease_ttl,
            status_address=_address(options.status_address),
            hints=_hints(options.hints, regions),
        )


def _wrong(option: str, what: str) -> ConfigError:
    return ConfigError(f"[{ORCHESTRATOR}] {option}: {what}")


def _number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise _wrong(option, f"{text!r} is no number of bytes")
    return int(text)


def _file(path: str) -> Path:
    if not Path(path).is_file():
        raise _wrong("clouds_file", f"there is no file {path}")
    secrecy.warn_if_open(Path(path), "credentials")
    return Path(path)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise _wrong("status_address", f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _hints(lines: Sequence[str], regions: Sequence[str]) -> dict[str, Bus]:
    found = {}
    for line in lines:
        words = line.split()
        if len(words) != 3 or words[0] not in regions:
            raise _wrong(
                "hints",
                f"{secrecy.masked(words[0]) if words else ''!r}: write REGION PUBSUB_URL STORE_URL, of one of the option regions",
            )
        bus = Bus(*words[1:])
        _checked("hints", lambda bus=bus: open_pubsub(bus.pubsub_url, open_store(bus.store_url)))
        found[words[0]] = bus
    return found


def _checked(option: str, work: Any, *arguments: Any) -> None:
    try:
        work(*arguments)
    except (ValueError, StoreError) as error:
        raise _wrong(option, str(error)) from error
