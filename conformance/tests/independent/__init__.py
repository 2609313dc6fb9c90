"""Servers by other hands: they know the specification, and nothing of the project's code or Interpretations."""
