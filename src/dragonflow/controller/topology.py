"""Which scopes of the DF DB this chassis needs: a function of the ports that are bound to it, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from dragonflow.model import CHASSIS_SCOPE, Binding, host_scope, network_scope, status_scope


def needed_scopes(chassis: str, bindings: Iterable[Binding]) -> set[str]:
    """The scopes that ``chassis`` has to follow, given the rows of its own host scope.

    A network is followed from the moment a port of it is bound here, before the VM is plugged, so that plugging finds all rows
    in place; and dropped when the last such binding goes.
    """
    return {
        CHASSIS_SCOPE,
        host_scope(chassis),
        status_scope(chassis),
        *(network_scope(binding.network) for binding in bindings),
    }
