"""Trains routers from outcome tables."""
