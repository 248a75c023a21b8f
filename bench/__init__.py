"""Measurements: `make bench` runs them all, `python -m bench NAME` one. Nothing is asserted.

Ratios within one run mean something on any machine; absolute times only on yours.
"""
