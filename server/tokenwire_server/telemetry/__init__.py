"""Metrics and structured logs. Import the modules; nothing is imported here, so that a log needs no metrics."""
