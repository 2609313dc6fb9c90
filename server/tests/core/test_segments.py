"""What overlapping sets have in common is compressed once for all of them."""

import json

import pytest

from tokenwire_server.core.compression import Deflater
from tokenwire_server.core.grants import Deflate, Offer

from .conftest import Bench, Client

COMMON = [f"common{n:038d}" for n in range(30)]
OWN = [[f"own{client}{n:040d}" for n in range(4)] for client in range(5)]


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    texts: list[bytes] = []
    original = Deflater.compress
    monkeypatch.setattr(Deflater, "compress", lambda self, text: texts.append(text) or original(self, text))
    return texts


def company(bench: Bench, caps: str = "batch", *, own: int = 4) -> list[Client]:
    for name in (*COMMON, *(name for names in OWN for name in names)):
        bench.add(name)
    clients = []
    for names in OWN:
        client = Client(bench, Deflate(15, False), Offer(frozenset(caps.split(","))))
        client.subscribe(*COMMON, *names[:own])
        client.read()
        clients.append(client)
    return clients


def change(bench: Bench, *names: str) -> None:
    for name in names:
        bench.change(name)
    bench.tick()


def updates(client: Client) -> dict[str, str]:
    (message,) = client.read()
    return {update["address"]: update["price"] for update in message["data"]["updates"]}


def test_the_common_part_is_compressed_once(bench: Bench, compressed: list[bytes]) -> None:
    clients = company(bench)
    compressed.clear()
    change(bench, *COMMON[:20], *(name for names in OWN for name in names))
    assert sum(COMMON[0].encode() in text for text in compressed) == 1
    assert len(compressed) == 1 + len(clients)
    for client, names in zip(clients, OWN, strict=True):
        assert updates(client) == dict.fromkeys((*names, *COMMON[:20]), "2")


def test_a_set_that_changed_nothing_of_its_own_gets_the_common_part(bench: Bench, compressed: list[bytes]) -> None:
    clients = company(bench)
    change(bench, *COMMON, *OWN[0])
    for index, client in enumerate(clients):
        assert set(updates(client)) == {*COMMON, *(OWN[0] if index == 0 else ())}


def test_too_few_changes_are_not_compressed_apart(bench: Bench, compressed: list[bytes]) -> None:
    clients = company(bench)
    compressed.clear()
    change(bench, *COMMON[:9], *(name for names in OWN for name in names))
    assert all(COMMON[0].encode() in text for text in compressed)
    assert [len(updates(client)) for client in clients] == [13] * 5


def test_segments_follow_the_sets(bench: Bench) -> None:
    clients = company(bench)
    bench.now += 1000
    clients[0].subscribe(*COMMON[:15], action="unsubscribe")
    clients[0].read()
    change(bench, *COMMON)
    assert set(updates(clients[0])) == set(COMMON[15:])
    for client in clients[1:]:
        assert set(updates(client)) == set(COMMON)
    sets = bench.hub.sets
    partitions = [sets.partition(tokens) for tokens in sets.occupied()]
    assert sorted(len(partition.segments) for partition in partitions) == [1, 2, 2, 2, 2]
    for client in clients[1:]:
        bench.hub.disconnect(client.link)
    assert not any(sets.partition(tokens).segments for tokens in sets.occupied()), "nobody to share with"


def test_a_replay_has_the_order_of_the_first_sending(bench: Bench) -> None:
    clients = company(bench, "batch,resume")
    change(bench, *COMMON, *OWN[0])
    client = clients[0]
    (first,) = client.read()
    number = first["sequence"]
    client.last = number - 1
    client.send({"type": "replay", "data": {"from": number, "to": number}})
    (again,) = [message for message in client.read() if message["type"] == "token_batch"]
    assert json.dumps(again["data"]) == json.dumps(first["data"])
