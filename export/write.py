"""Write the network as TorchScript and as ONNX, with the same bytes on every machine."""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import onnx
import torch

from export.archive import write_zip
from export.net import DiagonalFlipNet


def write_torchscript(net: DiagonalFlipNet, path: Path) -> None:
    """Write ``net``, which is in evaluation mode, as TorchScript to ``path``.

    It is frozen, because the constants of unfrozen layers are written in the order of a set.
    Members ``*.debug_pkl``, which are for stack traces, have paths of this machine's sources, and
    ``serialization_id`` is a hash over them; both are left out.
    """
    buffer = io.BytesIO()
    scripted = torch.jit.freeze(torch.jit.script(net))
    torch.jit.save(scripted, buffer)
    with zipfile.ZipFile(buffer) as saved:
        members = {
            # torch names the members' root folder after the file that it writes.
            f"{path.stem}/{name.split('/', 1)[1]}": saved.read(name)
            for name in saved.namelist()
            if not name.endswith((".debug_pkl", "serialization_id"))
        }
    write_zip(path, members)


def write_onnx(net: DiagonalFlipNet, path: Path) -> None:
    """Export ``net``, of any width, to one self-contained ONNX file with a dynamic batch axis."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program: Any = torch.onnx.export(
        net,
        (torch.zeros(2, net.layer1.in_features),),
        dynamo=True,
        input_names=["pixels"],
        output_names=["prediction"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    model = program.model_proto
    # Without "+cpu" or "+cu130", which depends on this machine.
    model.producer_version = model.producer_version.partition("+")[0]
    # The exporter writes stack traces, with paths, into metadata and doc strings.
    graph = model.graph
    described = [*graph.node, *graph.value_info, *graph.input]
    for part in [model, graph, *described, *graph.initializer, *graph.output]:
        del part.metadata_props[:]
    for part in described:
        part.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
