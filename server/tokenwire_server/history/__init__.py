"""Bars and trades that outlive the process: the port, its default in one SQLite file, and who writes and reads it."""
