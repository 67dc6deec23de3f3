"""Code of a worker: TorchServe's door, the HTTP doors, and the queue before the service."""
