"""The same contract on FastAPI, as a careful user would write it.

BENCH_ONNX=model_store/1.0/diagonal_flip.onnx uvicorn --workers 2 fastapi_app:app
"""

from fastapi import FastAPI, HTTPException, Request, Response
from network import OCTETS, PATH, count_of, predict

app = FastAPI()


@app.post(PATH)
async def answer(request: Request) -> Response:
    """Answers packed images with ``float32[n, 4]``."""
    packed = await request.body()
    count = count_of(packed, request.headers.get("content-type", ""))
    if not count:
        raise HTTPException(400, "1 byte to 512 KiB of packed images are expected")
    return Response(predict(packed)[:count].tobytes(), media_type=OCTETS)
