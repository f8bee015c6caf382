"""One of all API workers, of all servers, leads: it keeps what must be kept once. How it is found is ``store.election``'s."""

from __future__ import annotations

from dragonflow.store.election import office

KEY = office("neutron")

DOES = "keeps port statuses and agents, and mends the DF DB"
"""What the leader does, for logs."""
