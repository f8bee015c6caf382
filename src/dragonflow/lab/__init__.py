"""Hosts, regions and VMs as network namespaces: the ground of the demo, the tests and the benchmarks."""
