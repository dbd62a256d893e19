"""Errors of a reconstructed image against the clean one. Both are (B, C, H, W) in [0, 1]. Each error is (B,)."""

from torch import Tensor


def image_errors(image: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Return the errors of each image, by name:

    - `sse`: squared error, summed over channels and pixels (Hinton & Salakhutdinov, 2006, print this one);
    - `mse`, `mae`: squared and absolute error, averaged over channels and pixels;
    - `psnr`: 10 log10(1 / mse) in dB, at most 100. It is taken of each image, before any mean over images.
    """
    difference = (image - x).flatten(1)
    mse = difference.square().mean(1)
    return {
        "sse": difference.square().sum(1),
        "mse": mse,
        "mae": difference.abs().mean(1),
        "psnr": -10 * mse.clamp_min(1e-10).log10(),
    }
