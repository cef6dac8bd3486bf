"""The device of a training, and errors that mean its memory is too small."""

import torch

from recsys.errors import TrainingError

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""Words in RuntimeErrors of torch's CPU allocator and of CUDA's libraries, which have no class of their own."""


def pick_device(name: str) -> torch.device:
    """Return the device to train on.

    Args:
        name: `auto` (CUDA if there is a device, else the CPU), `cpu` or `cuda`.

    Raises:
        TrainingError: CUDA was asked for and there is none, or the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"device '{name}' is unknown; use auto, cpu or cuda")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise TrainingError(
            "device cuda: no CUDA device can be used here; use --device cpu or auto, "
            "or install a CUDA build of torch and the driver"
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of torch means that the device has too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)
