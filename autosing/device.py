"""Which device work runs on, decided once at the top and passed down."""

import torch

from autosing.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """`auto` = CUDA, then MPS, then CPU; any other name is taken as torch understands it.

    Raises:
        ConfigError: the name is not a device of this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device '{name}' is not usable on this machine ({error}); use auto, cpu or cuda") from error
    return device
