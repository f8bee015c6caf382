"""The ML2 mechanism driver ``df``. Thin: it hooks the parts into Neutron.

::

    *_precommit ── journal entry, provisioning block        (in Neutron's transaction)
    *_postcommit ─ wake the journal's worker
    bind_port ──── hosts ─ binding
    AFTER_INIT ─── threads: journal · hosts · presence · election ─ (as leader) status · trunks · agents · nova · mender
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from neutron.api import wsgi
from neutron.db import provisioning_blocks
from neutron.plugins.ml2.common import constants as ml2_constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.plugins import directory
from neutron_lib.plugins.ml2 import api
from oslo_config import cfg

from dragonflow import secrecy
from dragonflow.model import Chassis
from dragonflow.neutron import agents, binding, config, db
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.hosts import Hosts
from dragonflow.neutron.journal import Journal
from dragonflow.neutron.keeper import Keeper
from dragonflow.neutron.leader import DOES, KEY
from dragonflow.neutron.mender import Mender
from dragonflow.neutron.mirror import Mirror
from dragonflow.neutron.nova import NovaKeeper, watch_answers
from dragonflow.neutron.presence import Presence, server_name
from dragonflow.neutron.profile import remote
from dragonflow.neutron.qos import DragonflowQos
from dragonflow.neutron.remote import RemotePortDoor
from dragonflow.neutron.source import NETWORK_KIND, PORT_KIND, SUBNET_KIND, Plugin
from dragonflow.neutron.status import ACTIVE, Neutron, StatusKeeper
from dragonflow.neutron.trunk import DragonflowTrunks, TrunkKeeper
from dragonflow.store.election import Election

LOG = logging.getLogger(__name__)

_RESTART = 1.0
"""Seconds before a thread that failed begins anew."""

_FAREWELL = 6.0
"""Seconds that a clean end waits for the threads, so that leases are given back and others take over at once."""


class _Duties:
    """What the leader does."""

    def __init__(self, *duties: Keeper) -> None:
        self._duties = duties

    def start(self) -> None:
        for duty in self._duties:
            duty.start()

    def stop(self) -> None:
        for duty in self._duties:
            duty.stop()

    def stuck(self) -> tuple[float, str]:
        return max((duty.stuck(), duty.what) for duty in self._duties)


class Workers:
    """The driver's threads in one process, and what they share. A fork begins anew, with ``ensure``."""

    def __init__(self, options: Any) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._parents: list[DfDb] = []
        self._threads: list[threading.Thread] = []
        self._make()

    def _make(self) -> None:
        options = self._options
        self.dfdb = DfDb(options.store_url, options.pubsub_url)
        self.journal = Journal(Mirror(self.dfdb, Plugin()), options.journal_period, options.journal_claim)
        self.hosts = Hosts(self.dfdb, agents.host_by_agent, self.journal.doubt)
        self.presence = Presence(self.dfdb.store, options.leader_ttl)
        self.election = Election(
            self.dfdb.store,
            self._duties,
            options.leader_ttl,
            key=KEY,
            name=server_name(),
            does=DOES,
            patience=options.leader_patience,
        )

    def _duties(self) -> _Duties:
        options = self._options
        return _Duties(
            StatusKeeper(self.dfdb, options.reconcile_period, threads=options.status_threads),
            TrunkKeeper(self.dfdb),
            agents.AgentKeeper(self.dfdb, options.agent_heartbeat),
            NovaKeeper(),
            Mender(self.dfdb, options.repair_rate),
        )

    @property
    def _parts(self) -> tuple[Journal, Hosts, Presence, Election]:
        return self.journal, self.hosts, self.presence, self.election

    def start(self) -> None:
        """Start the threads in this process, once."""
        with self._lock:
            if self._pid == os.getpid():
                return
            if self._pid is not None:
                # A fork copied what the parent's threads use; it stays referenced, for nothing here may close it.
                self._parents.append(self.dfdb)
                self._threads = []
                self._make()
            else:
                atexit.register(self._at_exit)  # a fork takes it along
            self._pid = os.getpid()
        self.dfdb.listen()
        watch_answers()
        for part in self._parts:
            name = f"df-{type(part).__name__.lower()}"
            thread = threading.Thread(target=_for_ever, args=(part.run, name), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _at_exit(self) -> None:
        if self._pid == os.getpid():
            self.stop()

    def wake(self) -> None:
        """Something was recorded in the journal. After a fork, which takes no threads along, start them."""
        if self._pid is not None:
            self.start()
            self.journal.wake()

    def stop(self) -> None:
        """Stop the threads and let go of the DF DB."""
        for part in self._parts:
            part.stop()
        end = time.monotonic() + _FAREWELL
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self.dfdb.close()


def _for_ever(run: Callable[[], None], name: str) -> None:
    """Call ``run`` again whenever it raises; it returns when it was stopped."""
    while True:
        try:
            return run()
        except Exception:
            LOG.exception("df: thread %s failed and begins anew", name)
            threading.Event().wait(_RESTART)


class DragonflowMechanismDriver(api.MechanismDriver):
    """Networks, subnets and ports of Neutron are made by Dragonflow's controllers."""

    def initialize(self) -> None:
        """See ``MechanismDriver``. Starts no thread: the server may fork yet."""
        config.register(cfg.CONF)
        db.listen_to_ports()
        db.listen_to_security_groups()
        for option in ("store_url", "pubsub_url"):
            secrecy.warn_if_in_clear(f"[df] {option}", cfg.CONF.df[option])
        self.workers = Workers(cfg.CONF.df)
        self.trunks, self.qos = DragonflowTrunks(), DragonflowQos()
        RemotePortDoor(self._chassis).open()
        self._refused = ("", "")
        registry.subscribe(self._after_init, resources.PROCESS, events.AFTER_INIT)
        registry.subscribe(self._recorded, db.RECORDED, events.AFTER_CREATE)

    def _chassis(self) -> list[Chassis] | None:
        return self.workers.hosts.chassis()

    def _after_init(self, _resource: str, _event: str, trigger: object, payload: object = None) -> None:
        if trigger is wsgi.WorkerService:
            plugin = directory.get_plugin()
            plugin._rebind_on_revive_agent_types = [*plugin._rebind_on_revive_agent_types, binding.AGENT_TYPE]
            self.workers.start()

    def _recorded(self, _resource: str, _event: str, _trigger: object, payload: object = None) -> None:
        self.workers.wake()

    @property
    def connectivity(self) -> str:
        """See ``MechanismDriver``."""
        return str(portbindings.CONNECTIVITY_L2)

    def create_network_precommit(self, context: Any) -> None:
        """See ``MechanismDriver``."""
        db.record(context.plugin_context, NETWORK_KIND, context.current["id"], context.current["id"])

    update_network_precommit = create_network_precommit
    delete_network_precommit = create_network_precommit

    def create_subnet_precommit(self, context: Any) -> None:
        """See ``MechanismDriver``."""
        db.record(context.plugin_context, SUBNET_KIND, context.current["id"], context.current["network_id"])

    update_subnet_precommit = create_subnet_precommit
    delete_subnet_precommit = create_subnet_precommit

    def create_port_precommit(self, context: Any) -> None:
        """See ``MechanismDriver``."""
        self._port_changed(context)
        self._block(context)

    def update_port_precommit(self, context: Any) -> None:
        """See ``MechanismDriver``."""
        if not _only_status_changed(context):
            self._port_changed(context)
        if context.host != context.original_host:
            self._block(context)

    def delete_port_precommit(self, context: Any) -> None:
        """See ``MechanismDriver``."""
        self._port_changed(context)

    @staticmethod
    def _port_changed(context: Any) -> None:
        db.record(context.plugin_context, PORT_KIND, context.current["id"], context.current["network_id"])

    @staticmethod
    def _block(context: Any) -> None:
        """Have the port wait for its host before it turns ACTIVE."""
        port = context.current
        if (
            context.host
            and port["status"] != ACTIVE
            and port["device_owner"] not in ml2_constants.NO_PBLOCKS_TYPES
            and port.get(portbindings.VNIC_TYPE, portbindings.VNIC_NORMAL) in binding.VNIC_TYPES
        ):
            provisioning_blocks.add_provisioning_component(
                context.plugin_context, port["id"], resources.PORT, provisioning_blocks.L2_AGENT_ENTITY
            )

    def _wake(self, _context: Any) -> None:
        self.workers.wake()

    create_network_postcommit = _wake
    update_network_postcommit = _wake
    delete_network_postcommit = _wake
    create_subnet_postcommit = _wake
    update_subnet_postcommit = _wake
    delete_subnet_postcommit = _wake
    create_port_postcommit = _wake
    delete_port_postcommit = _wake

    def update_port_postcommit(self, context: Any) -> None:
        """See ``MechanismDriver``. A port that was switched off goes DOWN at once; ML2 alone would leave it ACTIVE."""
        self.workers.wake()
        port = context.current
        ours = context.vif_type in _OUR_VIF_TYPES or remote(port.get(portbindings.PROFILE), context.host)
        if not port["admin_state_up"] and port["status"] == ACTIVE and ours:
            Neutron().set(port["id"], "DOWN")

    def bind_port(self, context: Any) -> None:
        """See ``MechanismDriver``. Binds the first segment that the host can serve, or logs what the host lacks."""
        port, host = context.current, context.host
        vnic_type = port.get(portbindings.VNIC_TYPE, portbindings.VNIC_NORMAL)
        if vnic_type not in binding.VNIC_TYPES:
            LOG.debug("df: port %s is for another driver, its vnic_type is %s", port["id"], vnic_type)
            return
        now = self.workers.hosts.look(host)
        obstacles = []
        for segment in binding.segments_for(context.segments_to_bind, self._subnet_segments(context)):
            obstacle = binding.obstacle(host, now, segment)
            if obstacle is None and now.chassis is not None:
                vif = binding.vif(now.chassis, port["id"])
                context.set_binding(segment[api.ID], vif.type, vif.details)
                return
            obstacles.append(obstacle or "")
        reasons = "; ".join(dict.fromkeys(obstacles)) or "no segment of the network fits the port's subnets"
        # ML2 asks ten times in a row; one line is enough.
        level = logging.DEBUG if self._refused == (port["id"], reasons) else logging.WARNING
        self._refused = (port["id"], reasons)
        LOG.log(level, "df: port %s not bound: %s", port["id"], reasons)

    @staticmethod
    def _subnet_segments(context: Any) -> list[str | None]:
        plugin = directory.get_plugin()
        ids = [fixed["subnet_id"] for fixed in context.current.get("fixed_ips", ()) if fixed.get("subnet_id")]
        if not ids or len(context.segments_to_bind) < 2:
            return []
        subnets = plugin.get_subnets(context.plugin_context, filters={"id": ids})
        return [subnet.get("segment_id") for subnet in subnets]

    def check_segment_for_agent(self, segment: Mapping[str, Any], agent: Mapping[str, Any]) -> bool:
        """Whether the segment can be bound on the agent's host; the ``segments`` plugin maps hosts to segments by it."""
        if agent["agent_type"] != binding.AGENT_TYPE:
            return False
        chassis = binding.chassis_of_agent(agent)
        return binding.obstacle(chassis.id, binding.HostNow(chassis, True), segment) is None

    @classmethod
    def is_host_filtering_supported(cls) -> bool:
        """See ``MechanismDriver``."""
        return True

    def filter_hosts_with_segment_access(
        self, context: Any, segments: list[dict[str, Any]], candidate_hosts: list[str], agent_getter: Callable[..., Any]
    ) -> set[str]:
        """See ``MechanismDriver``."""
        filters = {"host": candidate_hosts, "agent_type": [binding.AGENT_TYPE]}
        return {
            agent["host"]
            for agent in agent_getter(context, filters=filters)
            if any(self.check_segment_for_agent(segment, agent) for segment in segments)
        }


def _only_status_changed(context: Any) -> bool:
    """Whether Neutron's transaction just turns the port ACTIVE or DOWN, which no row tells."""
    old, new = context.original, context.current
    return old["status"] != new["status"] and all(
        old.get(name) == value for name, value in new.items() if name not in _NOT_IN_ROWS
    )


_NOT_IN_ROWS = frozenset({"status", "revision_number", "updated_at"})
_OUR_VIF_TYPES = frozenset({portbindings.VIF_TYPE_OVS, portbindings.VIF_TYPE_VHOST_USER})
