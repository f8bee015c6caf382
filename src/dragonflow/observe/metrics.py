"""What controllers and orchestrators count and time, for Prometheus. Names follow its conventions; times are in seconds."""

from __future__ import annotations

from functools import partial

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server

from dragonflow.pubsub.protocol import Stats

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

SETTLE_SECONDS = Histogram("dragonflow_settle_seconds", "Rendering what changed", buckets=_FAST)
SYNC_SECONDS = Histogram("dragonflow_sync_seconds", "From the difference to the switch's barrier reply", buckets=_FAST)
MODS = Counter("dragonflow_mods", "Flow, group and meter changes that the switch confirmed")
ROWS_REFUSED = Counter("dragonflow_rows_refused", "Rows of the DF DB that could not be read", ["kind"])
LOCALITY_EVENTS = Counter("dragonflow_locality_events", "Confirmed changes of ports' places", ["kind", "change"])
STATUS_WRITES = Counter("dragonflow_status_writes", "Rows of port status, chassis and liveness written")
STORE_FAILURES = Counter("dragonflow_store_failures", "Writes to the DF DB that failed and were tried again")
STATUS_SECONDS = Histogram(
    "dragonflow_status_seconds", "From a confirmed status to its row in the DF DB, outages included", buckets=_FAST
)
PROBES = Counter("dragonflow_probes", "Ports that were proven or not, each time that one was tried", ["verdict"])
PROBE_SECONDS = Histogram("dragonflow_probe_seconds", "Asking ovs-vswitchd about a batch of ports", buckets=_FAST)
PUNTED = Counter("dragonflow_punted_packets", "Packets that the switch handed to the controller", ["kind", "outcome"])
OWNERS_DEGRADED = Gauge("dragonflow_owners_degraded", "Owners whose flows are left out because something refused them")
BFD_SESSIONS = Gauge("dragonflow_bfd_sessions", "BFD sessions with other chassis by what they say", ["state"])
BUS = Gauge("dragonflow_bus_messages", "What the message bus has counted since the start", ["count"])
IN_SYNC = Gauge("dragonflow_in_sync", "1 while the DF DB, OVSDB and the switch are all connected and in sync")

REGION_UP = Gauge("dragonflow_region_up", "1 while the region's API answers the orchestrator", ["region"])
REGION_LAG = Gauge("dragonflow_region_lag_seconds", "For how long a region hasn't been as it should be", ["region"])
REGION_PORTS = Gauge(
    "dragonflow_region_ports",
    "Ports of other regions in a region: wanted there, announced, of those active, and troubled: wanted but impossible",
    ["region", "which"],
)
REGION_STEPS = Counter("dragonflow_region_steps", "What an orchestrator did in a region", ["region", "step", "outcome"])
REGION_READ_SECONDS = Histogram(
    "dragonflow_region_read_seconds", "Reading what a region holds", ["region"], buckets=(*_FAST, 10.0, 30.0)
)
LEADS = Gauge("dragonflow_orchestrator_leads", "1 while this orchestrator leads")


def follow_bus(stats: Stats) -> None:
    """Show the counters of the process's bus."""
    for name in stats.__struct_fields__:
        BUS.labels(name).set_function(partial(getattr, stats, name))


def serve(host: str, port: int) -> None:
    """Answer Prometheus from a thread of its own. :raises OSError: the address can't be bound."""
    start_http_server(port, addr=host, registry=REGISTRY)
