"""Runs the migrations on the connection that `Store.upgrade` hands over."""

from alembic import context

from routewright.records import schema

context.configure(
    connection=context.config.attributes["connection"], target_metadata=schema.metadata
)
context.run_migrations()
