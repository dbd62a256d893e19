"""Every random draw is a function of where it happens, never of what was drawn before it.

A draw is named by its place, such as `("train", seed, epoch, step, rank)`. So a run that was stopped at any step
draws what it would have drawn, and neither a validation in between nor the number of workers changes anything.
"""

import hashlib

import torch


def key(*place: int | str) -> int:
    """A 63-bit seed for the place: equal places give equal seeds, on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=8).digest()) >> 1


def generator(device: torch.device | str, *place: int | str) -> torch.Generator:
    """A generator of the place's own, on the device, apart from torch's global ones."""
    return torch.Generator(device).manual_seed(key(*place))


def seed(device: torch.device, *place: int | str) -> None:
    """Set torch's global generators of the CPU and of `device`, from which dropout and `torch.randn` draw.

    `torch.manual_seed` does the same for every kind of device there could be, at 0.1 ms a call: too much for a step.
    """
    torch.default_generator.manual_seed(key(*place))
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(key(*place))
