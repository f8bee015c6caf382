"""Networks that stretch over several OpenStacks: ``consent`` (who takes part) and ``cloud`` (one region's Neutron).

Everything the orchestrator knows stands in the regions themselves: who takes part in tags of their networks, what was announced
in ports of one ``device_owner``. So any instance may take over at any time from any other.
"""
