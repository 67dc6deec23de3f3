"""HTTP/1.1 of a worker: listeners, connections, authentication, the life of a request."""
