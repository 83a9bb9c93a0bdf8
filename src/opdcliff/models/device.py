"""The device of this process."""

from __future__ import annotations

import gc
import os

import torch

from opdcliff.errors import ConfigError
from opdcliff.settings import EngineConfig


def pick_device(config: EngineConfig) -> torch.device:
    """The device of this process: `auto` is the GPU of its local rank if there is one.

    Raises:
        ConfigError: cuda is asked for and there is none, or there are more ranks than GPUs.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError("engine.device=cuda and torch sees no GPU; set engine.device=cpu or auto")
    if config.device == "cpu" or not available:
        return torch.device("cpu")
    # On several hosts DeepSpeed's launcher says how many ranks are on this one.
    here = int(os.environ.get("LOCAL_SIZE", config.ranks))
    if here > torch.cuda.device_count():
        raise ConfigError(
            f"engine.ranks={here} and torch sees {torch.cuda.device_count()} GPUs; lower "
            "the ranks to that, or set engine.device=cpu"
        )
    # Its backward pass gives NaN gradients on H100 and H200 for masked rows of some lengths, torch
    # 2.11 to 2.13 (pytorch issue 196678); the other kernels do not.
    torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def free_device() -> None:
    """Give back GPU memory that this process cached but no longer uses, before ranks need it."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
