"""Errors of a reconstruction against the clean datum, both (B, C, *sizes). Each error is (B,)."""

from torch import Tensor

from aelab.tokens import PADDING


def errors(shown: Tensor, x: Tensor, domain: str) -> dict[str, Tensor]:
    """Return the errors of each datum, by name. Numbers in [0, 1] and real numbers have

    - `sse`: squared error, summed over the datum (Hinton & Salakhutdinov, 2006, print this one);
    - `mse`, `mae`: squared and absolute error, averaged over the datum;
    - `psnr`: 10 log10(1 / mse) in dB, at most 100, of numbers in [0, 1]. It is taken of each datum, before any mean.

    Numbers that are missing are left out of sums and means. Tokens have

    - `accuracy`: share of tokens that are right, padding left out;
    - `exact`: 1 if all of them are right, else 0.
    """
    shown, x = shown.flatten(1), x.flatten(1)
    if domain == "tokens":
        counts = x != PADDING
        right = (shown == x) & counts
        share = right.sum(1) / counts.sum(1).clamp_min(1)
        return {"accuracy": share, "exact": (share == 1).float()}
    difference = shown - x
    if domain == "real":
        missing = x.isnan()
        difference, n = difference.masked_fill(missing, 0), (~missing).sum(1).clamp_min(1)
        sse = difference.square().sum(1)
        return {"sse": sse, "mse": sse / n, "mae": difference.abs().sum(1) / n}
    mse = difference.square().mean(1)
    return {
        "sse": difference.square().sum(1),
        "mse": mse,
        "mae": difference.abs().mean(1),
        "psnr": -10 * mse.clamp_min(1e-10).log10(),
    }
