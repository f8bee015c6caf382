"""How alembic runs Dragonflow's migrations: in Neutron's database, with a version table of our own."""

from __future__ import annotations

from typing import Any

from alembic import context
from neutron.db.migration.connection import DBConnection
from neutron_lib.db import model_base

from dragonflow.neutron.db import models

VERSION_TABLE = "alembic_version_dragonflow"
OURS = frozenset(model.__tablename__ for model in (models.JournalEntry, models.PortGeneration, models.OwedEvent))

config = context.config
database = config.neutron_config.database


def include_object(_object: Any, name: str | None, type_: str, _reflected: bool, _compare_to: Any) -> bool:
    """Whether autogenerate looks at it: at our own tables only."""
    return type_ != "table" or name in OURS


def run_offline() -> None:
    """Print the SQL instead of running it (``--sql``)."""
    where = {"url": database.connection} if database.connection else {"dialect_name": database.engine}
    context.configure(**where, version_table=VERSION_TABLE, include_object=include_object)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run the migrations on the database that Neutron is configured with."""
    with DBConnection(database.connection, config.attributes.get("connection")) as connection:
        context.configure(
            connection=connection,
            target_metadata=model_base.BASEV2.metadata,
            version_table=VERSION_TABLE,
            include_object=include_object,
        )
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
