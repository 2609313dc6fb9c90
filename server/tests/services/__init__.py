"""Real engines for the tests: Apache Kafka, PostgreSQL and Redis, each a process of its own on a port of the loopback.

``python -m server.tests.services up`` starts them and writes ``build/services.json``; the fixtures of
:mod:`.fixtures` use what that file names, or start the one a test needs. Needs Linux.
"""
