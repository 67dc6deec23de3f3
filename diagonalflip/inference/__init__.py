"""Requests to responses, by a model on one device; knows no sockets."""
