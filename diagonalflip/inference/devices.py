"""The device that a worker computes on: a GPU that torch can use, else the CPU."""

from __future__ import annotations

import os

CPU = "cpu"
GPU_NODES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""Device files of the drivers for NVIDIA's GPUs, Jetson boards, WSL and AMD's GPUs."""


def has_gpu_driver() -> bool:
    """Return whether a GPU's driver is loaded; without one, torch need not be imported."""
    return any(map(os.path.exists, GPU_NODES))


def pick_device(gpu_id: int | str | None) -> str:
    """Return the device of a worker: workers take the GPUs that torch can use in turn.

    Args:
        gpu_id: The worker's number, or the GPU that TorchServe assigned, which is 0 on a host
            without a GPU as well; None asks for the CPU.

    Returns:
        As torch names it: ``cpu``, or ``cuda:N``.
    """
    if gpu_id is None or not has_gpu_driver():
        return CPU
    from diagonalflip.inference.torch_engine import count_gpus  # noqa: PLC0415 - needs torch

    gpus = count_gpus()
    return f"cuda:{int(gpu_id) % gpus}" if gpus else CPU
