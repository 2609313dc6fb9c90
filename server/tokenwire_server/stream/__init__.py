"""From raw events to numbered ones, for any number of readers: the fold of one partition, and what is written of it."""
