"""What is kept: one store (SQLite or PostgreSQL) of decisions, keys, budgets, feedback, states."""
