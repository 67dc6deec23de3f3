"""Runs TorchServe with the exported archive, from start to a clean stop."""
