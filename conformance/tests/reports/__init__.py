"""Tests of what happens with verdicts after a run."""
