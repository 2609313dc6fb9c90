"""A client that keeps every clause, and can be told to make one mistake: what the client cases are proven with."""
