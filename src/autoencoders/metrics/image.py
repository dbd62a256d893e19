"""Errors of a reconstructed image against the clean one, both (B, C, H, W) in [0, 1]; each result is (B,)."""

from torch import Tensor


def image_errors(image: Tensor, x: Tensor) -> dict[str, Tensor]:
    """By name, for each image:

    - `sse`: squared error summed over channels and pixels (what Hinton & Salakhutdinov, 2006, print);
    - `mse`, `mae`: squared and absolute error, a mean over channels and pixels;
    - `psnr`: 10 log10(1 / mse) in dB, so that its mean over images is the mean of the images' own values.
    """
    difference = (image - x).flatten(1)
    mse = difference.square().mean(1)
    return {
        "sse": difference.square().sum(1),
        "mse": mse,
        "mae": difference.abs().mean(1),
        "psnr": -10 * mse.clamp_min(1e-10).log10(),
    }
