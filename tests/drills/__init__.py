"""Drills: break the running service under load, and watch it recover."""
