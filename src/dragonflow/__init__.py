"""Dragonflow: a distributed SDN controller for OpenStack Neutron on Open vSwitch."""

from importlib.metadata import version

__version__ = version("dragonflow")
