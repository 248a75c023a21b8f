"""Asks experts to fill outcome tables: interviews, self-play, tags and rewards."""
