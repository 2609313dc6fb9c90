"""The data validation layer: what clients send (``messages``) and what sources deliver (``trades``).

It knows no market and no sockets; a verdict names its reason in one short constant word, to be counted.
"""
