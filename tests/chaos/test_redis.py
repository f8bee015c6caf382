"""Every fault once on Redis: nothing may be lost, and all must be right again within seconds.

`bench/soak.py` does the same for as long as one wants, with more ports, in an order that chance gives.
"""

from __future__ import annotations

import pytest

from dragonflow.lab.chaos import FAULTS, Fault, Ground, suffer

STORE = "redis"

SCALE = 0.5
"""How many ports change, of what a soak changes."""

LIMIT = 10.0
"""Seconds within which all must be right again: twice what a soak allows, for here other tests run beside it."""

SPARED = (
    *("leading API worker", "leading Neutron server", "every Neutron server", "every controller"),
    *("ovs-vswitchd", "partition, refused", "clock 1 h off"),
)
"""Faults to which it makes no difference what the DF DB is (that a leader's worker goes is to it as if its server went);
``test_etcd`` has them. A soak spares none.
"""

CASES = [fault for fault in FAULTS if fault.name not in SPARED]


@pytest.mark.parametrize("fault", CASES, ids=lambda fault: fault.name)
def test_all_is_right_again_after(ground: Ground, fault: Fault) -> None:
    assert fault.who(ground.lab)
    outcome = suffer(ground, fault, scale=SCALE, limit=LIMIT)
    print(outcome)
    assert outcome.violations == [], outcome
