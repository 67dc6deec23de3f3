"""Proves export, loading, warm-up and predictions on processors that we do not own."""
