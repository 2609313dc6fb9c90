"""``collect`` as a whole, over a bus in memory."""

from pathlib import Path

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.collect_role import collect_to_bus
from tokenwire_server.settings import Settings
from tokenwire_server.sources.tape import Tape

from ..sources.conftest import agg_trade, write_tape
from .collector_bench import TOPICS, ids


async def test_who_comes_back_goes_on_where_another_one_ended(tmp_path: Path) -> None:
    path = write_tape(tmp_path / "tape", [agg_trade(number) for number in range(30)], step_ms=20)
    bus = MemoryBus()
    await bus.ensure(TOPICS.specs())
    for name, seconds in (("a", 0.2), ("b", 0.2), ("a", None)):
        settings = Settings.model_validate({"instance": name, "kafka_partitions": TOPICS.partitions})
        source = Tape(path, name="tape")
        written = sum(map(len, (await ids(bus)).values()))
        await collect_to_bus(settings, [source], bus, port=0, duration_s=seconds)
        assert source.skipped == written
    assert await ids(bus) == {"binance:BTCUSDT": [str(number) for number in range(30)]}
