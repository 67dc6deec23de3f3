"""Ask by the Open Inference Protocol V2, with NVIDIA's client."""

import os

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

URL = os.environ.get("DIAGONALFLIP_URL", "http://127.0.0.1:8080")

pixels = InferInput("pixels", [2, 4], "FP32")
pixels.set_data_from_numpy(np.array([[1, 0, 1, 1], [0, 1, 1, 0]], np.float32))
with InferenceServerClient(URL.removeprefix("http://")) as client:
    print(client.infer("diagonal_flip", [pixels], model_version="2.0").as_numpy("prediction"))
