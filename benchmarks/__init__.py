"""Figures, and the proof on a GPU: every benchmark here checks the answers it times."""
