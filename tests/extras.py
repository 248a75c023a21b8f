"""Skips tests whose extra is not installed, without the seconds that importing it takes."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def require(module: str, reason: str) -> None:
    """Skips the module of tests that calls this at its top, if a package is not installed."""
    if find_spec(module) is None:
        pytest.skip(reason, allow_module_level=True)
