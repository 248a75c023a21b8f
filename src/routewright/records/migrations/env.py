"""Runs the migrations on the connection that `Store.upgrade` hands over."""

from alembic import context

from routewright.records import schema

if hasattr(context, "config"):  # Alembic loads this file, and nobody else
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=schema.metadata)
    context.run_migrations()
