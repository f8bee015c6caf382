"""Chassis as agents in ``openstack network agent list``. Done by the leader.

Neutron calls an agent alive while its heartbeat is younger than ``agent_down_time``. The leader writes the heartbeat of all
chassis whose lease stands, in one statement, and sets it back for those whose lease is gone: so that is seen at once.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import sqlalchemy as sa
from neutron.db.models import agent as agent_models
from neutron_lib import constants
from neutron_lib.context import get_admin_context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_config import cfg
from oslo_utils import timeutils

from dragonflow.model import ALIVE_SCOPE, CHASSIS_SCOPE, Alive, Chassis
from dragonflow.neutron.binding import AGENT_BINARY, AGENT_TYPE, HostNow, chassis_of_agent, configurations
from dragonflow.neutron.db.retry import retry_deadlocks
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.keeper import TURN, Keeper
from dragonflow.neutron.table import Table
from dragonflow.store.feed import ScopeReset

LOG = logging.getLogger(__name__)

_SCOPES = (CHASSIS_SCOPE, ALIVE_SCOPE)


def agent_state(chassis: Chassis) -> dict[str, Any]:
    """The chassis as the report that an agent of Neutron's would send."""
    return {
        "agent_type": AGENT_TYPE,
        "binary": AGENT_BINARY,
        "host": chassis.id,
        "topic": constants.L2_AGENT_TOPIC,
        "configurations": configurations(chassis),
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

    def report(self, chassis: Chassis) -> None:
        """Create the agent or bring it up to date; its heartbeat is now."""
        directory.get_plugin().create_or_update_agent(get_admin_context(), agent_state(chassis))

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
        rows: Table[Chassis | Alive] = Table(Chassis, Alive)
        reported: dict[str, tuple[Chassis, bool]] = {}
        awaited = set(_SCOPES)
        due = self._clock()
        feed = self._dfdb.store.feed(_SCOPES)
        try:
            while not self._stop.is_set():
                news = feed.next(TURN)
                if news is not None:
                    rows.apply(news)
                    if isinstance(news, ScopeReset):
                        awaited.discard(news.scope)
                if awaited:
                    continue
                if news is not None:
                    with self._step():
                        reported = self._report(rows, reported)
                    self._outage.over()
                if self._clock() >= due and feed.in_sync:
                    with self._step():
                        if not self._beat(reported):
                            reported = self._report(rows, {})
                    self._outage.over()
                    due = self._clock() + self._period
        finally:
            feed.close()

    def _report(
        self, rows: Table[Chassis | Alive], before: dict[str, tuple[Chassis, bool]]
    ) -> dict[str, tuple[Chassis, bool]]:
        """Write what changed since ``before``; returns what stands now."""
        alive = {row.id for row in rows if isinstance(row, Alive)}
        now = {row.id: (row, row.id in alive) for row in rows if isinstance(row, Chassis)}
        for host, (chassis, lives) in now.items():
            if (chassis, lives) != before.get(host) and (lives or host not in before):
                self._agents.report(chassis)
        dead = [host for host, (_, lives) in now.items() if not lives]
        dead += [host for host in before if host not in now]
        self._agents.bury(dead)
        return now

    def _beat(self, reported: dict[str, tuple[Chassis, bool]]) -> bool:
        """Write the heartbeats. False if an agent is missing: somebody deleted it."""
        alive = [host for host, (_, lives) in reported.items() if lives]
        return self._agents.beat(alive) == len(alive)
