"""Which client cases have to fail for each mistake of the reference client, and why. Written by hand."""

from dataclasses import dataclass
from typing import Final

__all__ = ["KILLS", "Kill"]


@dataclass(frozen=True, slots=True)
class Kill:
    """What one mistake has to fail, exactly: every other case has to pass."""

    cases: frozenset[str]
    reason: str


def _kill(cases: str, reason: str) -> Kill:
    return Kill(frozenset(cases.split()), reason)


KILLS: Final[dict[str, Kill]] = {
    # --- what it sends
    "wrong-path": _kill("C-EP-01", "only this case looks at the path; the others accept any"),
    "two-keys": _kill("C-MB-01 C-MB-02 C-MB-03", "neither sequence nor timestamp is there to be judged"),
    "timestamp-in-seconds": _kill("C-MB-02", "seconds lie decades before the present"),
    "sequence-constant": _kill("C-MB-03", "the second request has the number of the first"),
    "binary-requests": _kill("C-MB-01", "a message has to be text"),
    "tokens-as-string": _kill(
        "C-CM-04 C-CM-05 C-EH-13 C-MS-01 C-MS-02", "tokens is no list, so the client holds nothing, now or later"
    ),
    "action-in-capitals": _kill(
        "C-CM-04 C-CM-05 C-EH-13 C-MS-01 C-MS-02", "the action is none, so the client holds nothing, now or later"
    ),
    "one-long-request": _kill(
        "C-MB-03 C-PF-01", "1100 tokens in one message; and with one message only there are no numbers to compare"
    ),
    "pads-requests": _kill("C-CR-05", "its request for 1100 long names exceeds 1 MiB"),
    "compresses-small": _kill("C-PF-02", "a request of less than 1 KB has RSV1 set"),
    # --- states
    "no-connecting": _kill("C-CS-01", "the first state told is CONNECTED"),
    "connected-early": _kill("C-CS-01 C-CS-02 C-CS-03", "CONNECTED comes before the handshake is answered"),
    "no-connected-again": _kill("C-CS-02 C-MO-01", "CONNECTED is waited for after the return"),
    "no-reconnecting": _kill("C-CS-02", "during the return the state told is still CONNECTED"),
    "no-failed": _kill("C-CS-04 C-CS-05 C-CS-06 C-CS-07", "each of these ends in FAILED"),
    "fifth-state": _kill("C-MO-01", "DISCONNECTED is none of the four; the order of those is right"),
    # --- retries
    "never-returns": _kill(
        "C-CM-01 C-CM-02 C-CM-03 C-CM-04 C-CM-05 C-CM-06 C-CM-08 C-CM-10 C-CM-11 C-CM-12 C-CM-13 C-CM-14 C-CM-15 "
        "C-CM-16 C-CM-17 C-CM-18 C-CM-20 C-CM-21 C-CM-22 C-CR-01 C-CS-02 C-CS-03 C-DC-10 C-EH-07 C-EH-08 C-EH-09 "
        "C-MO-01 C-XR-01 C-XR-02 C-XR-03 C-XR-04 C-XR-07",
        "all that need a second connection; broken frames (C-EH-07 to 09) may end a connection but not the client",
    ),
    "retries-for-ever": _kill("C-CS-04", "FAILED never comes; the case cannot tell patience from this, and skips"),
    "retries-after-failed": _kill("C-CS-04", "an attempt follows FAILED"),
    "no-wait": _kill("C-CM-11 C-CM-12 C-CM-16 C-CM-18", "ten tries in a tenth of a second: a storm, and no growth"),
    "storms": _kill(
        "C-CM-11 C-CM-12 C-CM-16 C-CM-18 C-CS-04", "200 attempts in 10 s; and it never gives up (C-CS-04 skips)"
    ),
    "constant-wait": _kill("C-CM-11 C-CM-16 C-CM-18", "waits of at most a second: too many tries, and no growth"),
    "linear-backoff": _kill("C-CM-16", "the early waits fit either growth; the later ones do not"),
    "base-5s": _kill(
        "C-CM-10 C-CM-11 C-CM-13 C-CM-17", "the first wait exceeds 1 s (C-CM-10, 17), the next their bounds (11, 13)"
    ),
    "uncapped": _kill("C-CM-15 C-CS-04", "a wait of 45 s; after 40 s C-CS-04 takes the client for ended"),
    "no-jitter": _kill("C-CM-13", "1, 2, 4 and 8 s to the point"),
    "no-reset": _kill("C-CM-17", "the wait after 32 s of stability still has the fifth bound"),
    "resets-at-once": _kill("C-CM-18", "every short connection is followed by a first wait"),
    "ignores-retry-after": _kill("C-CM-14", "it comes back within a second"),
    "retries-401": _kill("C-CS-05", "an attempt follows HTTP 401"),
    "retries-403": _kill("C-CS-06", "an attempt follows HTTP 403"),
    "retries-404": _kill("C-CS-07", "an attempt follows HTTP 404"),
    "ends-on-503": _kill("C-CM-03 C-CM-14", "the two cases that answer 503"),
    "no-connect-timeout": _kill("C-CM-06 C-CR-01 C-CR-02", "the three cases with an opening that does not end"),
    # --- close codes
    "returns-after-1000": _kill("C-CM-23", "the case of this code"),
    "returns-after-1008": _kill("C-CM-24", "the case of this code"),
    "returns-after-3000": _kill("C-CM-25", "the case of this code"),
    "returns-after-4500": _kill("C-CM-26", "the case of this code"),
    "returns-after-unknown-final": _kill("C-CM-27", "4999 is in no table"),
    "stays-away-1001": _kill("C-CM-08 C-CM-20", "both close with 1001 and wait for the return"),
    "stays-away-1006": _kill(
        "C-CM-01 C-CM-02 C-CM-03 C-CM-04 C-CM-05 C-CM-08 C-CM-10 C-CM-12 C-CM-17 C-CM-18 C-CS-02 C-DC-10 C-MO-01 "
        "C-XR-01 C-XR-02 C-XR-03 C-XR-04",
        "all that cut an open connection without a close frame",
    ),
    "stays-away-1012": _kill("C-CM-08 C-CM-20", "both close with 1012 and wait for the return"),
    "stays-away-4000": _kill("C-CM-22", "the case that closes with 4000"),
    "stays-away-unknown": _kill("C-CM-22", "4321 and 4499 are in no table"),
    # --- subscriptions
    "loses-subscriptions": _kill("C-CM-04 C-CM-05", "nothing is asked for after the return"),
    "forgets-one": _kill("C-CM-04 C-CM-05", "one of the three is not asked for after the return"),
    "subscribes-to-more": _kill("C-CM-04 C-CM-05", "a fourth token is asked for after the return"),
    # --- the socket
    "leaves-open": _kill(
        "C-CM-30 C-CM-31 C-ME-04 C-ME-05 C-XR-07 C-XZ-03 C-XZ-05 C-XZ-06 C-XZ-07",
        "all that wait for the client to end a connection by itself",
    ),
    "leaves-opening-open": _kill("C-CM-06 C-CR-01 C-CR-02", "all that wait for the client to end an opening"),
    "never-notices-silence": _kill("C-CM-30 C-CM-31", "it is there after 60 s"),
    "notices-late": _kill("C-CM-31", "40 s are within four heartbeats, but not 20 s"),
    "notices-early": _kill("C-CM-31 C-CM-32", "8 s are not 20 s, and a ping every 8 s comes too late"),
    "pings-are-no-life": _kill("C-CM-32", "the one case with nothing but pings"),
    "no-pong": _kill("C-CM-33", "no pong comes"),
    "no-close-answer": _kill(
        "C-CM-07 C-CM-09",
        "what the server closed stays for 20 s; the returns of C-CM-08 may take longer than that",
    ),
    "no-fragments": _kill("C-MB-04", "the one case that splits messages"),
    "no-inflate": _kill("C-PF-03 C-PF-04", "the two cases that compress"),
    "no-inflate-context": _kill("C-PF-04", "the second message needs the window of the first"),
    "no-plain": _kill("C-PF-02 C-PF-03 C-PF-04", "with compression agreed on even the greeting is plain"),
    "small-messages": _kill("C-CR-03 C-CR-04 C-XB-02", "the three cases with a message of more than 64 KiB"),
    "limit-off-by-one": _kill("C-CR-04", "1,048,576 bytes are the limit, not beyond it"),
    # --- numbers
    "silent-gap": _kill(
        "C-DC-03 C-DC-04 C-DC-05 C-XA-02 C-XR-02 C-XR-05 C-XR-06 C-XR-07",
        "a hole is neither told nor repaired, and with resume it counts as received",
    ),
    "gap-off-by-one": _kill("C-DC-05", "only this case looks at the range"),
    "errors-uncounted": _kill(
        "C-DC-02 C-DC-04 C-XR-04", "an error makes a gap of the message after it, hides one before it, also in a replay"
    ),
    "false-gap": _kill("C-DC-10", "a gap is told though nothing is missing"),
    "count-goes-on": _kill("C-DC-10", "the numbers of the second connection are below those of the first, and dropped"),
    "delivers-duplicates": _kill("C-DC-07 C-DC-09", "both send a number that was received before"),
    "delivers-late": _kill("C-DC-08", "n+2 reaches the application behind n+3"),
    "drops-after-gap": _kill("C-DC-06", "no value comes behind the hole"),
    "out-of-turn": _kill(
        "C-DC-01 C-DC-07 C-DC-08 C-EH-12 C-EH-13 C-MB-04 C-PF-03 C-PF-04 C-XB-01 C-XB-02 C-XR-04 C-XR-05 C-XZ-01 "
        "C-XZ-02",
        "half of the values wait for the next one: cases where theirs is such a one, or that look at the order",
    ),
    "float-price": _kill("C-MU-01 C-MU-02", "32 digits do not fit, and a tiny number gets an exponent"),
    # --- errors and invalid messages
    "dies-on-bad-json": _kill(
        "C-EH-01 C-EH-10 C-EH-11", "for this reader deep nesting and 5000 digits are no JSON either"
    ),
    "dies-on-no-object": _kill("C-EH-02", "the case of this mistake"),
    "dies-on-unknown-type": _kill("C-EH-05", "the case of this mistake"),
    "dies-on-missing-key": _kill("C-EH-03", "the case of this mistake"),
    "dies-on-unknown-field": _kill("C-EH-12", "the case of this mistake"),
    "dies-on-wrong-type": _kill("C-EH-04", "the case of this mistake"),
    "dies-on-binary": _kill("C-EH-06", "the case of this mistake"),
    "dies-on-bad-utf8": _kill("C-EH-07", "the case of this mistake"),
    "dies-on-reserved-bits": _kill("C-EH-08", "the case of this mistake"),
    "dies-on-unknown-opcode": _kill("C-EH-09", "the case of this mistake"),
    "ends-on-warning": _kill(
        "C-CR-03 C-CR-04 C-DC-02 C-ME-01 C-ME-06 C-ME-07", "all that send a warning and something behind it"
    ),
    "ends-on-error": _kill(
        "C-EH-13 C-ME-02 C-ME-03 C-ME-06", "all that send an error of this level and something behind it"
    ),
    "ignores-fatal": _kill("C-ME-04 C-ME-05", "it is there after 15 s, whether it knows the code or not"),
    "drops-unknown-codes": _kill("C-ME-07", "no event comes for a new code"),
    "stays-at-unknown-fatal": _kill("C-ME-05", "the case with a new code"),
    "no-errors-told": _kill("C-ME-06 C-ME-07", "no event comes for any code"),
    "levels-lost": _kill("C-ME-06 C-ME-07", "a warning is told as an error"),
    # --- extensions
    "ignores-batch": _kill("C-XB-01 C-XB-02", "nothing of a batch arrives"),
    "first-of-batch": _kill("C-XB-01 C-XB-02", "the other entries do not arrive"),
    "resumes-nothing": _kill(
        "C-XR-01 C-XR-02 C-XR-03 C-XR-04", "it has to come back; the last three skip, since what they test needs it"
    ),
    "resumes-next": _kill("C-XR-01 C-XR-02", "seq is one too high"),
    "secret-in-url": _kill("C-XR-03", "only this case looks where the secret is"),
    "attempt-constant": _kill("C-XR-01", "only this case comes back twice"),
    "obeys-replayed-fatal": _kill("C-XR-04", "it leaves behind the replayed error"),
    "no-hold-back": _kill("C-XR-05 C-XR-06", "what is behind the hole arrives first"),
    "replays-too-much": _kill("C-XR-05", "only this case looks at the range"),
    "two-replays": _kill("C-XR-05 C-XR-06", "while the hole is open, each message makes another request"),
    "no-replay": _kill("C-XR-05 C-XR-06", "both wait for the request"),
    "never-gives-up": _kill("C-XR-07", "it is there after 9 s"),
    "gives-up-by-resuming": _kill("C-XR-07", "it comes back with the secret"),
    "acks-ahead": _kill("C-XA-01", "the number was not sent yet"),
    "ignores-heartbeat": _kill("C-XH-01", "the loss is not noticed"),
    "counts-heartbeat": _kill("C-XH-02", "a heartbeat that tells of no loss is taken for one"),
    "whole-frames-only": _kill("C-XZ-01 C-XZ-02 C-XZ-05 C-XZ-06", "what begins in these is open behind the message"),
    "ends-only": _kill("C-XZ-02", "the frame that ends with its fifth message is not read"),
    "first-window-only": _kill("C-XZ-02", "the second message that continues needs the window of the first"),
    "ignores-beginnings": _kill("C-XZ-02", "the sixth message begins a stream while one is open"),
    "takes-unknown-flags": _kill("C-XZ-07", "it stays"),
    "decodes-bombs": _kill("C-XZ-03", "it stays"),
    "takes-wrong-sizes": _kill("C-XZ-05 C-XZ-06", "it stays"),
    "cuts-at-length": _kill("C-XZ-06", "it stays, with the length that it was told"),
}
"""For each flag of ``reference_client.faults``, in its order."""
