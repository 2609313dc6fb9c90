"""What several instances share: the index of all tokens, open bars, and who of them polls and publishes."""
