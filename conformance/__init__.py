"""Makes the names of the test packages unique; not part of the distribution."""
