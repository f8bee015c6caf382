"""How our own threads repeat a statement: a lost race at once, an outage not at all.

Neutron's own decorator goes on for minutes, with pauses of ten seconds at the end. Our threads have better to do while the
database is away, and would sleep on after it came back: they take the error, wait as each sees fit, and begin anew.
"""

from __future__ import annotations

from oslo_db import api as oslo_db_api

retry_deadlocks = oslo_db_api.wrap_db_retry(
    max_retries=5, retry_interval=0.02, max_retry_interval=0.2, retry_on_deadlock=True, jitter=True
)
"""Repeats a function whose transaction was chosen to give way in a deadlock."""
