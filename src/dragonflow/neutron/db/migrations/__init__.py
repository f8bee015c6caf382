"""Dragonflow's alembic branch: ``neutron-db-manage --subproject dragonflow upgrade heads``."""
