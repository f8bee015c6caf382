"""Keeps each router and each port to its share of the host's table of connections: a limit on its conntrack zone in Open vSwitch.

Limits aren't part of OpenFlow; ovs-vswitchd takes them at its control socket (``dpctl/ct-set-limits``, ovs-vswitchd(8)), and a
data path in user space forgets them when it ends. So what is there is read and compared after each change of zones, after each
new connection to the switch, and once a minute. A zone that isn't used any more keeps its limit, which harms nobody.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Mapping

from dragonflow.apps.zones import is_ports
from dragonflow.switch.unixctl import CommandFailed, Unixctl, Unreachable

LOG = logging.getLogger(__name__)

_ROUND = 60.0
"""Seconds between two looks while nothing changes."""

_AGAIN = 1.0
"""Seconds until a control socket that nobody answers is tried again."""

_DATAPATH = {"netdev": "netdev@ovs-netdev", "system": "system@ovs-system"}
_LIMIT = re.compile(r"zone=(\d+),limit=(\d+)")


class Limiter:
    """In each zone that is wanted so many connections at most as a router may have, or a port; 0: no limit."""

    def __init__(self, unixctl: Unixctl, datapath_type: str, *, router: int, port: int) -> None:
        self._unixctl, self._datapath = unixctl, _DATAPATH[datapath_type]
        self._router, self._port = router, port
        self._zones: frozenset[int] = frozenset()
        self._connection: int | None = None
        self._wake = asyncio.Event()
        self._trouble: str | None = None

    def want(self, zones: Collection[int], connection: int) -> None:
        """From now on these are the zones. Another ``connection`` to the switch may be to one that has forgotten everything."""
        wanted = frozenset(zones), connection
        if wanted != (self._zones, self._connection):
            self._zones, self._connection = wanted
            self._wake.set()

    @property
    def status(self) -> str:
        """For operators."""
        if self._trouble is not None:
            return f"not kept: {self._trouble}"
        ports = sum(map(is_ports, self._zones))
        kinds = (self._router, len(self._zones) - ports, "routers and own addresses"), (self._port, ports, "ports")
        return "connections: " + ", ".join(
            f"{limit or 'any number'} for each of {count} {who}" for limit, count, who in kinds
        )

    def _limit(self, zone: int) -> int:
        return self._port if is_ports(zone) else self._router

    async def run(self) -> None:
        """Keep the limits for ever; ends only by being cancelled."""
        while True:
            self._wake.clear()
            patience = _ROUND
            try:
                await self._keep()
                trouble = None
            except (Unreachable, CommandFailed) as error:
                trouble, patience = str(error), _AGAIN if isinstance(error, Unreachable) else _ROUND
            if trouble is not None and trouble != self._trouble:
                LOG.warning("Limits of connections can't be kept: %s", trouble)
            self._trouble = trouble
            try:
                async with asyncio.timeout(patience):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _keep(self) -> None:
        """:raises Unreachable: nobody answers; :raises CommandFailed: the data path can't limit."""
        if not self._zones:
            return
        has = _limits(await self._ask("dpctl/ct-get-limits"))
        wrong = {zone: limit for zone in sorted(self._zones) if has.get(zone, 0) != (limit := self._limit(zone))}
        if limits := [f"zone={zone},limit={limit}" for zone, limit in wrong.items() if limit]:
            await self._ask("dpctl/ct-set-limits", *limits)
        if unlimited := [str(zone) for zone, limit in wrong.items() if not limit]:
            await self._ask("dpctl/ct-del-limits", "zone=" + ",".join(unlimited))

    async def _ask(self, command: str, *arguments: str) -> str:
        (answer,) = await self._unixctl.ask(command, [(self._datapath, *arguments)])
        if isinstance(answer, CommandFailed):
            raise answer
        return answer


def _limits(told: str) -> Mapping[int, int]:
    """The limits by zone, as ``dpctl/ct-get-limits`` tells them."""
    return {int(zone): int(limit) for zone, limit in _LIMIT.findall(told)}
