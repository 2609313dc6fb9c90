"""The proof of the server past one machine: every part dies again and again, and nothing is lost."""
