"""What every test of a command needs."""

import logging
from pathlib import Path

import pytest


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder; what a command does to the root logger ends with the test."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])  # a command sends the log to a stream of this test
    monkeypatch.setattr(root, "level", root.level)
