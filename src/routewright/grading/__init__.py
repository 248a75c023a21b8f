"""Scores for answers: graders compare with a reference, reward models judge without one."""
