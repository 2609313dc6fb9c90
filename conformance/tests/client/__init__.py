"""Tests of the client side: what starts clients, and the bench."""
