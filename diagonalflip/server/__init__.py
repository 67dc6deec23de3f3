"""The server: supervisor, workers and their HTTP."""
