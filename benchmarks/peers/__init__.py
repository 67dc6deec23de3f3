"""The servers that `make bench` compares with; each app runs in an environment of its own."""
