"""Sends large answers of a batch to TorchServe one by one, rather than all in one frame.

TorchServe's frontend decodes the frame of a batch in quadratic time: with every read of the
socket it parses the frame from its start, and copies each finished answer again
(pytorch/serve: ModelResponseDecoder.java). Four answers of 16 MiB took it 15 s. So large
answers leave in frames of their own, each together with an empty piece of one other answer,
the carrier, which is marked as streaming: that tells the frontend that the batch goes on
(BatchAggregator.java, ``ts_stream_next``). The frame that the handler returns ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ts.protocol.otf_message_handler import create_predict_response

LARGE_BYTES = 1 << 16
"""Answers up to here share a frame: a few reads of the socket."""


def send_large_ahead(bodies: Sequence[bytes], context: Any) -> None:
    """Sends all large answers but the largest now, and takes them out of the batch.

    Args:
        bodies: Answers of the batch, in order.
        context: TorchServe's context, with statuses and headers set. Answers that are sent
            are removed from its ``request_ids``, which is what TorchServe writes from.
    """
    large = sorted(range(len(bodies)), key=lambda index: len(bodies[index]))
    large = [index for index in large if len(bodies[index]) > LARGE_BYTES]
    if len(large) < 2:
        return
    *ahead, carrier = large
    request_ids = context.request_ids
    context.stopping_criteria = {index: lambda _: None for index in ahead}
    context.stopping_criteria[carrier] = lambda _: False  # "streaming, and not at its end"
    try:
        for index in ahead:
            frame = create_predict_response(
                {index: bodies[index], carrier: b""},
                {index: request_ids[index], carrier: request_ids[carrier]},
                "Prediction success",
                200,
                context,
            )
            context.cl_socket.sendall(frame)
            del request_ids[index]
    finally:
        context.stopping_criteria = None
