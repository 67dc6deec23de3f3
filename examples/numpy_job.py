"""Predict a million images: the client cuts the job into requests."""

import os

import numpy as np

from diagonalflip import Client

URL = os.environ.get("DIAGONALFLIP_URL", "http://127.0.0.1:8080")

images = np.random.default_rng(0).integers(0, 16, 1_000_000)
with Client(URL) as client:
    predictions = client.predict(images)
print(predictions.shape, predictions.dtype, predictions.mean(axis=0))
