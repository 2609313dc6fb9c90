"""Clients under test: the server whose behaviour each case scripts, what starts the client, and the cases."""
