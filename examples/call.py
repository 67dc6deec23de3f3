"""Predict three images, and flip one by version 2.0."""

import os

from diagonalflip import Client

URL = os.environ.get("DIAGONALFLIP_URL", "http://127.0.0.1:8080")

with Client(URL) as client:
    for prediction in client.predict([11, "0110", [[1, 1], [0, 0]]]):
        print(prediction)

with Client(URL, version="2.0") as client:
    print(client.flip([[[0, 0], [1, 0]]])[0])
