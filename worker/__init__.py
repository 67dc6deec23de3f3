"""What runs inside a worker: TorchServe's door, the HTTP door, and the queue before the service."""
