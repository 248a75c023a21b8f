"""Predicts quality and cost from the prompt, before any expert is asked."""
