"""Load, faults and simulation: how the promises of the protocol are put to the test."""
