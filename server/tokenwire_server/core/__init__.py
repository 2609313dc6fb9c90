"""The pure core: what is sent to whom, in which bytes, under which number. No I/O, clock or randomness."""
