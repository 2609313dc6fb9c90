"""The texts below ``--help``."""

from typing import Final

from tokenwire_conformance.figures import PATH

__all__ = ["CLIENT", "CLIENT_PROFILES", "EXPLAIN", "LIST", "SERVER", "TOP"]

CLIENT_PROFILES: Final = ("core", "timing", "ext.batch", "ext.resume", "ext.ack", "ext.heartbeat", "ext.zstd")
"""Those that have a case for clients."""

_VERDICTS: Final = """\
verdicts of a case:
  OK             everything as demanded
  INFORMATIONAL  something optional is done differently
  NON-STRICT     a reading of a silence of the specification, or a recommendation, is not kept (see --declare)
  FAILED         the specification, or something that was granted or declared, is not kept
  SKIPPED        not tested; the reason is told

exit status:
  0    no case failed
  1    a case failed that is not listed as a known failure, or the server went away during the run
  2    nothing else failed, but a listed known failure passes: take it off the list
  3    nothing was tested: nobody there, or everything was skipped
  4    the command line, or a file that it names, is wrong
  70   the suite itself broke; this says nothing of the peer
  130  interrupted, by Ctrl-C or SIGTERM
"""

TOP: Final = f"""\
examples:
  tokenwire-conformance server ws://127.0.0.1:8080{PATH}
  tokenwire-conformance server wss://example.org --tokens DOGE,PEPE --profile core,timing --junit junit.xml
  tokenwire-conformance client --exec 'node client.mjs {{url}} {{tokens}}' --html report.html
  tokenwire-conformance list --profile core
  tokenwire-conformance explain S-MC-01

{_VERDICTS}"""

SERVER: Final = f"""\
Without --tokens, made-up names are used where the server accepts any, else what GET /api/v1/tokens lists. A server that
does neither needs --tokens; 101 names let every case run.

profiles: core (what every server must do, below a minute), timing (update interval, heartbeats, time-outs), limits
(1000 connections, 1 MB, 1000 tokens), ext.batch and so on (skipped where the capability is not granted), all (every one
of these), rfc6455 (the WebSocket protocol itself, with Autobahn's cases; needs no tokens, but the extra "rfc6455").

--declare names numbered Interpretations, the project's readings of the specification's silences. What is declared FAILS
when it is not kept; what is not declared is NON-STRICT.

A file of known failures has one case a line, "S-MS-04  # reason". Such a case may fail, and must: once it passes, the
exit status is 2 until its line is gone.

examples:
  tokenwire-conformance server ws://127.0.0.1:8080
  tokenwire-conformance server ws://127.0.0.1:8080 --tokens @tokens.txt --profile all --declare all
  tokenwire-conformance server wss://example.org --header-file credentials.txt --ca ca.pem
  tokenwire-conformance server ws://127.0.0.1:8080 --case S-MS --verbose --html report.html

{_VERDICTS}"""

CLIENT: Final = f"""\
The command is started once for every case, without a shell. In its words stand for
  {{url}}     the address that the client has to connect to (needed)
  {{tokens}}  the tokens that it has to subscribe to, separated by commas
  {{case}}    the id of the case
The client connects, subscribes to the tokens, and goes on until it is ended by SIGTERM.

What it prints to its standard output may be events, one JSON object a line. With them it is also judged on states,
values, gaps and errors; without them those cases are skipped. Other lines and further fields are ignored.
  {{"event": "state", "state": "CONNECTING"}}               each change: CONNECTING, CONNECTED, RECONNECTING, FAILED
  {{"event": "update", "address": "…", "price": "1.5"}}     each value that reaches the application
  {{"event": "gap", "from": 5, "to": 7}}                    numbers that are lost (from and to may be null)
  {{"event": "error", "code": "…", "level": "warning"}}     each error message

examples:
  tokenwire-conformance client --exec 'node client.mjs {{url}} {{tokens}}'
  tokenwire-conformance client --exec 'java -jar client.jar --url={{url}}' --profile core,timing --html report.html

{_VERDICTS}"""

LIST: Final = """\
examples:
  tokenwire-conformance list --role client
  tokenwire-conformance list --profile 'ext.*'
  tokenwire-conformance list --clauses
  tokenwire-conformance list --json | jq -r '.[].id'
"""

EXPLAIN: Final = """\
examples:
  tokenwire-conformance explain S-MC-01
  tokenwire-conformance explain MB.sequence     a clause, and the cases that check it
  tokenwire-conformance explain S-MS            every case of a group
  tokenwire-conformance explain I-18            the clauses of an Interpretation
"""
