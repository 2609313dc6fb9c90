"""Servers under test: the peer that talks to them, and the cases, a module for each group of clauses."""
