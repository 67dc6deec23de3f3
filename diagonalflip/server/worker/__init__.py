"""Code of a worker: TorchServe's listener, the HTTP listeners, and the queue before the service."""
