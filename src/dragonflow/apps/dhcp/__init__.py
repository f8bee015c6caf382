"""DHCP: ``Dhcp`` is the app; ``v4`` and ``v6`` are what its server says, as pure functions."""

from dragonflow.apps.dhcp.app import Dhcp

__all__ = ["Dhcp"]
