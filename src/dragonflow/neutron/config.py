"""The driver's own options, group ``[df]``, beside those that it shares with the controller."""

from __future__ import annotations

from oslo_config import cfg

from dragonflow import config

NEUTRON_OPTS = [
    cfg.FloatOpt(
        "journal_period",
        default=2.0,
        min=0.05,
        help="Seconds between two looks for changes that still have to be written to the DF DB: those that another API "
        "worker left unfinished. One's own are written at once.",
    ),
    cfg.FloatOpt(
        "journal_claim",
        default=4.0,
        min=1.0,
        help="Seconds for which an API worker keeps others from the changes it is writing. After a worker died, its changes "
        "wait that long.",
    ),
    cfg.FloatOpt(
        "leader_ttl",
        default=3.0,
        min=0.5,
        help="Seconds after which an API worker that died counts as gone, and another takes over from one that kept the port "
        "statuses and the agent list.",
    ),
    cfg.FloatOpt(
        "leader_patience",
        default=60.0,
        min=1.0,
        help="Seconds for which the work of that leader may hang, in Neutron's database for instance, before it leaves it to "
        "another. Keep it above innodb_lock_wait_timeout (50 s), by which the database itself ends the most common hang.",
    ),
    cfg.IntOpt(
        "status_threads",
        default=4,
        min=1,
        max=64,
        help="How many threads of the leader turn ports ACTIVE and DOWN in Neutron's database.",
    ),
    cfg.FloatOpt(
        "reconcile_period",
        default=5.0,
        min=0.1,
        help="Seconds between two comparisons of all port statuses in the DF DB with those in Neutron.",
    ),
    cfg.FloatOpt(
        "agent_heartbeat",
        default=20.0,
        min=0.1,
        help="Seconds between two writes of the heartbeat of all live chassis to Neutron's agent list. Keep it below half of "
        "agent_down_time.",
    ),
    cfg.FloatOpt(
        "repair_rate",
        default=30.0,
        min=0.0,
        help="How many networks, subnets, ports and routers a second the leader compares with the DF DB in the background, "
        "mending what differs. 0: none; 'dragonflow repair' does it by hand. A DF DB that is new or was lost is filled at once "
        "and at full speed, whatever this says.",
    ),
]


def register(conf: cfg.ConfigOpts) -> None:
    """Make known all options that the driver reads."""
    config.register(conf, config.STORE_OPTS, NEUTRON_OPTS)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For oslo-config-generator: only what ``dragonflow.config`` doesn't list."""
    return [(config.GROUP, list(NEUTRON_OPTS))]
