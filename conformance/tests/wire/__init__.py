"""Tests of the suite's own WebSocket peer."""
