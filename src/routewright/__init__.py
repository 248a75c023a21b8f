"""Routewright picks, for every query, which language model should answer it.

The seven nouns are in `routewright.types`; a strategy is a generator that yields asks and is
sent answers; `routewright.drive` runs it on recorded outcomes (`replay`) or on the network
(`live`).
"""

__version__ = "0.1.0"
