"""Outcome tables, query sets, and how both are read and written."""
