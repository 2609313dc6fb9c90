"""The market, pure: trades in, token values out. No I/O, no clock, no randomness; time is an argument."""
