"""Load on a server that is fed by the probe: Locust users, and a gate of our own. See README.md."""
