"""TorchServe's own loader of archives, without its codec.

``ts.service`` imports the codec for a loop that is not ours (worker/frames.py), and the codec
imports torch: 200 MiB and a second, of no use to a worker on a CPU.
"""

from __future__ import annotations

import sys
import types
from typing import Any

CODEC = "ts.protocol.otf_message_handler"


def model_loader() -> Any:
    """An instance of ``ts.model_loader.TsModelLoader``."""
    stand_in = types.ModuleType(CODEC)
    stand_in.create_predict_response = None  # type: ignore[attr-defined]
    sys.modules.setdefault(CODEC, stand_in)
    from ts.model_loader import TsModelLoader  # noqa: PLC0415 - after its codec was replaced

    return TsModelLoader()
