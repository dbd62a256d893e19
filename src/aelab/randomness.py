"""Seeds for random draws. A draw depends on the place where it happens, never on what was drawn before.

A place names each draw, for example `("train", seed, epoch, step, rank)`. A run that was stopped at any step therefore
draws what it would have drawn without the stop. Neither a validation in between nor the number of workers changes a
draw.
"""

import hashlib

import torch


def key(*place: int | str) -> int:
    """Return a 63-bit seed for the place. Equal places give equal seeds, on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest()) >> 1


def generator(device: torch.device | str, *place: int | str) -> torch.Generator:
    """Return a new generator for the place, on the device. torch's global generators stay as they are."""
    return torch.Generator(device).manual_seed(key(*place))


def seed(device: torch.device, *place: int | str) -> None:
    """Set torch's global generators of the CPU and of `device`. Dropout and `torch.randn` draw from these.

    `torch.manual_seed` sets the generators of every kind of device. That takes 0.1 ms, too long for each step.
    """
    torch.default_generator.manual_seed(key(*place))
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(key(*place))
