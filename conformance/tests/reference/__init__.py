"""A server that keeps every clause, and one named fault for every mistake that a server may make."""

from conformance.tests.reference.faults import FAULTS
from conformance.tests.reference.server import ReferenceServer
from conformance.tests.reference.settings import Settings

__all__ = ["FAULTS", "ReferenceServer", "Settings"]
