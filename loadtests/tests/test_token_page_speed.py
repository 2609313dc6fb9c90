"""The measurement of pages of tokens runs."""

import json

import pytest
from server.tests.services.redis import Redis

from loadtests import token_page_speed


def test_everything_is_measured(redis_server: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    assert token_page_speed.main([redis_server.url(), "--tokens", "500", "--pages", "20", "--json"]) == 0
    found = {one["what"]: one for one in json.loads(capsys.readouterr().out)}
    asked = {
        f"{kind}: {what}" for kind in ("memory", "redis") for what in ("first page", "a page in the middle", "a search")
    }
    assert asked < found.keys()
    assert all(0 <= one["p50_ms"] <= one["p99_ms"] <= one["max_ms"] for one in found.values())
