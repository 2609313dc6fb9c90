"""Messages become entries: whose session, which number, what they carry."""

from loadtests.faults.history import Asked, Entry, Sent, alias
from loadtests.faults.recorder import SocketRecorder


def recorder(entries: list[Entry]) -> SocketRecorder:
    return SocketRecorder("c1", 4, entries.append)


def test_a_strict_session_is_its_connection() -> None:
    entries: list[Entry] = []
    records = recorder(entries)
    records.sent(1, b'{"type":"connection","sequence":1,"timestamp":5,"data":{"status":"connected","connectionId":"u",'
                    b'"maxSubscriptions":100}}')  # fmt: skip
    records.sent(2, b'{"type":"token_update","sequence":2,"timestamp":5,"data":{"address":"A","price":"3",'
                    b'"marketCap":"0","volume":{"h24":"1","h1":"1","m5":"0"}}}')  # fmt: skip
    first, second = entries
    assert isinstance(first, Sent)
    assert isinstance(second, Sent)
    assert (first.session, first.connection_id, first.numbered) == ("u", "u", True)
    assert (second.session, second.sequence, second.updates) == ("u", 2, (("A", None, "3"),))


def test_a_resumed_session_keeps_its_alias_and_its_greeting_no_number() -> None:
    entries: list[Entry] = []
    records = recorder(entries)
    records.sent(1, b'{"type":"connection","sequence":9,"timestamp":5,"data":{"status":"connected","connectionId":"u",'
                    b'"session":"SECRET","resumed":true,"stream":"x","subscriptions":[{"token":"A","channels":[]}]}}'
                    )  # fmt: skip
    entry = entries[0]
    assert isinstance(entry, Sent)
    assert (entry.session, entry.numbered, entry.tokens, entry.stream) == (alias("SECRET"), False, ("A",), "x")


def test_replies_gaps_and_farewells() -> None:
    entries: list[Entry] = []
    records = recorder(entries)
    reply = b'{"type":"subscription","sequence":2,"timestamp":5,"data":{"action":"%b","tokens":["A"],"status":"%b"}}'
    records.sent(1, reply % (b"unsubscribe", b"success"))
    records.sent(1, reply % (b"subscribe", b"error"))
    records.sent(1, b'{"type":"gap","sequence":9,"timestamp":5,"data":{"from":2,"to":3,"cause":"evicted",'
                    b'"repair":"snapshot"}}')  # fmt: skip
    records.sent(1, b'{"type":"connection","sequence":4,"timestamp":5,"data":{"status":"error","connectionId":"u"}}')
    sent = [entry for entry in entries if isinstance(entry, Sent)]
    assert [(entry.action, entry.tokens) for entry in sent[:2]] == [("unsubscribe", ("A",)), (None, ())]
    assert (sent[2].numbered, sent[2].first, sent[2].last) == (False, 2, 3)
    assert records.closing


def test_what_a_client_asks_is_kept_and_nonsense_is_not() -> None:
    entries: list[Entry] = []
    records = recorder(entries)
    records.received(1, '{"type":"ack","data":{"sequence":7}}')
    records.received(2, '{"type":"replay","data":{"from":2,"to":5}}')
    for nonsense in ("?", '{"type":"ack"}', '{"type":"subscription","data":{"tokens":["A"]}}', '{"data":1}'):
        records.received(3, nonsense)
    assert entries == [Asked(1, "c1", 4, "ack", 0, 7), Asked(2, "c1", 4, "replay", 2, 5)]
