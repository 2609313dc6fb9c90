"""Locust's entry: ``make load`` runs it with a server of its own; see load/README.md for the rest.

locust -f loadtests/locustfile.py --headless --host ws://127.0.0.1:8080 --users 200 --run-time 60s
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # started from anywhere

from loadtests.load.hooks import LoadShape
from loadtests.load.users import Churner, Resumer, SlowConsumer, Subscriber

__all__ = ["Churner", "LoadShape", "Resumer", "SlowConsumer", "Subscriber"]
