"""Versions of the model: their store, their signatures, which are served."""
