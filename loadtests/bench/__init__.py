"""The fan-out benchmark: our server, a bare loop of send() and other servers at the same task in one run."""
