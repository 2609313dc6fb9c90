"""Random schedules of a whole life: wishes, changes, losses, cuts and restarts. In the end everything is right."""

from collections import Counter

import pytest

from .model import SYMBOLS, World

CAPS = [(), ("details",), ("resume", "heartbeat"), ("batch", "heartbeat", "resume", "details")]
SEEDS = 60


@pytest.mark.parametrize("faults", [False, True])
@pytest.mark.parametrize("caps", CAPS, ids="-".join)
def test_everything_converges(caps: tuple[str, ...], faults: bool) -> None:
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        world = World(seed, caps, faults)
        for _ in range(200):
            world.step()
        world.settle()
        session = world.peer.session
        assert session.state == "CONNECTED", seed
        assert all(request.done for request in world.requests), seed
        for request in world.requests:
            assert request.error is None or request.error.code == "REPLY_TIMEOUT", seed
        wanted = {SYMBOLS.get(name, name) for name in session.desired if name != "none"}
        assert world.current is not None
        assert set(world.current.held) == wanted, seed
        for address in wanted:
            assert session.latest[address].price == str(world.versions[address]), (seed, address)
        for name in session.desired:
            assert name == "none" or session.latest[name].address == SYMBOLS.get(name, name)
        happened.update(world.happened)
        happened.update(session.metrics.resumes)
    assert happened["cut"] > 0
    assert happened["restart"] > 0
    if "resume" in caps and "details" in caps:
        assert happened["resumed"] > 0
        assert happened["position"] > 0
    else:
        assert happened["resumed"] == 0
    if faults:
        assert happened["lost"] > 0
        assert happened["limited"] > 0
        assert happened["replay"] > 0 or "resume" not in caps
