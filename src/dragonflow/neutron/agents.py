"""Chassis as agents in ``openstack network agent list``. Done by the leader.

Neutron calls an agent alive while its heartbeat is younger than ``agent_down_time``. The leader writes the heartbeat of all
chassis whose lease stands, in one statement, and sets it back for those whose lease is gone: so that is seen at once. What a
chassis finds of its tunnels to other regions stands in its agent, too.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Collection, Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db.models import agent as agent_models
from neutron_lib import constants
from neutron_lib.context import get_admin_context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_config import cfg
from oslo_utils import timeutils

from dragonflow.model import ALIVE_SCOPE, CHASSIS_SCOPE, Alive, Chassis, TunnelState, status_scope
from dragonflow.neutron.binding import AGENT_BINARY, AGENT_TYPE, HostNow, chassis_of_agent, configurations
from dragonflow.neutron.db.retry import retry_deadlocks
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.keeper import TURN, Keeper
from dragonflow.neutron.table import Table
from dragonflow.neutron.tunnels import Tunnels, by_chassis, is_news, with_tunnels
from dragonflow.store.feed import ScopeReset

LOG = logging.getLogger(__name__)

_SCOPES = (CHASSIS_SCOPE, ALIVE_SCOPE, status_scope("*"))

TUNNELS = 1.0
"""Seconds between two looks at tunnels, while nothing else happens: there may be thousands, each with its own changes."""

_Rows = Table[Chassis | Alive | TunnelState]


class _Told(NamedTuple):
    """What stands in Neutron of a chassis, but for the heartbeat."""

    chassis: Chassis
    alive: bool
    tunnels: Tunnels


def agent_state(chassis: Chassis, tunnels: Tunnels) -> dict[str, Any]:
    """The chassis as the report that an agent of Neutron's would send."""
    return {
        "agent_type": AGENT_TYPE,
        "binary": AGENT_BINARY,
        "host": chassis.id,
        "topic": constants.L2_AGENT_TOPIC,
        "configurations": with_tunnels(configurations(chassis), tunnels),
    }


def host_by_agent(host: str) -> HostNow:
    """What Neutron's agent list says of a host: the last resort when the DF DB was never read."""
    agents = directory.get_plugin().get_agents(
        get_admin_context(), filters={"agent_type": [AGENT_TYPE], "host": [host]}
    )
    for agent in agents:
        try:
            return HostNow(chassis_of_agent(agent), agent["alive"])
        except (KeyError, TypeError, ValueError) as error:
            LOG.warning("df: the agent of host %s can't be understood: %r", host, error)
    return HostNow(None, False)


def known_chassis(context: Any = None) -> Iterator[Chassis]:
    """Every chassis that Neutron's agent list remembers, also those that are not alive; read in ``context``'s transaction."""
    filters = {"agent_type": [AGENT_TYPE]}
    for agent in directory.get_plugin().get_agents(context or get_admin_context(), filters=filters):
        try:
            yield chassis_of_agent(agent)
        except (KeyError, TypeError, ValueError) as error:
            LOG.warning("df: the agent of host %s can't be understood: %r", agent["host"], error)


class AgentTable:
    """Neutron's agents table."""

    def report(self, chassis: Chassis, tunnels: Tunnels = MappingProxyType({})) -> None:
        """Create the agent or bring it up to date; its heartbeat is now."""
        directory.get_plugin().create_or_update_agent(get_admin_context(), agent_state(chassis, tunnels))

    def beat(self, hosts: Collection[str]) -> int:
        """Set the heartbeat of the hosts' agents to now. Returns how many agents there were."""
        return int(_set_heartbeat(get_admin_context(), hosts, timeutils.utcnow()))

    def bury(self, hosts: Collection[str]) -> None:
        """Set the heartbeat of the hosts' agents back so far that they are not alive."""
        past = timeutils.utcnow() - datetime.timedelta(seconds=cfg.CONF.agent_down_time + 1)
        _set_heartbeat(get_admin_context(), hosts, past, agent_models.Agent.heartbeat_timestamp > past)


@retry_deadlocks
def _set_heartbeat(context: Any, hosts: Collection[str], heartbeat: datetime.datetime, *conditions: Any) -> int:
    if not hosts:
        return 0
    agent = agent_models.Agent
    with db_api.CONTEXT_WRITER.using(context):
        result = context.session.execute(
            sa.update(agent)
            .where(agent.agent_type == AGENT_TYPE, agent.host.in_(hosts), *conditions)
            .values(heartbeat_timestamp=heartbeat),
            execution_options={"synchronize_session": False},
        )
        return int(result.rowcount)


class AgentKeeper(Keeper):
    """Follows the chassis and keeps their agents, in a thread from ``start`` to ``stop``. ``period`` is in seconds."""

    def __init__(
        self,
        dfdb: DfDb,
        period: float,
        agents: AgentTable | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("agents", clock)
        self._dfdb = dfdb
        self._period = period
        self._agents = agents or AgentTable()

    def _follow(self) -> None:
        rows: _Rows = Table(Chassis, Alive, TunnelState)
        told: dict[str, _Told] = {}
        changed: set[str] = set()
        awaited = set(_SCOPES)
        due = look = self._clock()
        feed = self._dfdb.store.feed(_SCOPES)
        try:
            while not self._stop.is_set():
                news = feed.next(TURN)
                if news is not None:
                    changed |= {key.kind for key in rows.apply(news)}
                    if isinstance(news, ScopeReset):
                        awaited.discard(news.scope)
                if awaited:
                    continue
                if changed - {TunnelState.__name__} or (changed and self._clock() >= look):
                    with self._step():
                        told = self._report(rows, told)
                    changed.clear()
                    look = self._clock() + TUNNELS
                    self._outage.over()
                if self._clock() >= due and feed.in_sync:
                    with self._step():
                        if not self._beat(told):
                            told = self._report(rows, {})
                    self._outage.over()
                    due = self._clock() + self._period
        finally:
            feed.close()

    def _report(self, rows: _Rows, before: dict[str, _Told]) -> dict[str, _Told]:
        """Write what is news after ``before``; returns what is told now."""
        alive = {row.id for row in rows if isinstance(row, Alive)}
        tunnels = by_chassis(row for row in rows if isinstance(row, TunnelState))
        now: dict[str, _Told] = {}
        for chassis in rows:
            if isinstance(chassis, Chassis):
                fresh = _Told(chassis, chassis.id in alive, tunnels.get(chassis.id, {}))
                old = before.get(chassis.id)
                if old is None or (fresh.alive and _is_news(old, fresh)):
                    self._agents.report(chassis, fresh.tunnels)
                else:
                    fresh = fresh._replace(tunnels=old.tunnels)
                now[chassis.id] = fresh
        dead = [host for host, each in now.items() if not each.alive]
        dead += [host for host in before if host not in now]
        self._agents.bury(dead)
        return now

    def _beat(self, told: dict[str, _Told]) -> bool:
        """Write the heartbeats. False if an agent is missing: somebody deleted it."""
        alive = [host for host, each in told.items() if each.alive]
        return self._agents.beat(alive) == len(alive)


def _is_news(told: _Told, now: _Told) -> bool:
    return (told.chassis, told.alive) != (now.chassis, now.alive) or is_news(told.tunnels, now.tunnels)
