"""Hosts, regions and VMs as network namespaces: the ground of the demo, the tests and the benchmarks.

The door is ``Lab``; its errors are ``LabError``.
"""

from dragonflow.lab.lab import DEFAULT_NAME, Lab, clean
from dragonflow.lab.state import Vm
from dragonflow.lab.system import LabError

__all__ = ["DEFAULT_NAME", "Lab", "LabError", "Vm", "clean"]
