"""How near a render is to its photograph: PSNR and SSIM, an image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

LARGEST_PSNR = 100.0
PIXELS_A_BAND = 2**15
SMALLEST_EDGE = 11  # SSIM's window
NO_LPIPS = (
    "not computed: LPIPS needs the weights of an image network, which are not part of any package "
    "and would have to be downloaded"
)


@dataclass(frozen=True)
class ImageScore:
    """What was measured of one image. psnr: dB. ssim: at most 1, or None for a tiny image."""

    name: str
    psnr: float
    ssim: float | None


def score(name: str, truth: Tensor, render: Tensor) -> ImageScore:
    """Measure one image: two [H, W, 3] with colours in [0, 1]; what is outside is clipped."""
    tiny = min(truth.shape[:2]) < SMALLEST_EDGE
    return ImageScore(name, psnr(truth, render), None if tiny else ssim(truth, render))


def psnr(truth: Tensor, render: Tensor) -> float:
    """Peak signal to noise ratio of two [H, W, 3], data range 1, dB.

    At most 100 dB: equal images have none that is finite, and one infinity would be the mean.

    >>> round(psnr(torch.zeros(2, 2, 3), torch.full((2, 2, 3), 0.1)), 4)  # -10 log10(0.01)
    20.0
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    pair = _pair(truth, render)
    return min(float(peak_signal_noise_ratio(*pair, data_range=1.0)), LARGEST_PSNR)


def ssim(truth: Tensor, render: Tensor) -> float:
    """Structural similarity of two [H, W, 3], data range 1, Gaussian window 11 x 11, sigma 1.5.

    In bands of rows, each with the rows around it that its windows reach: the same mean as in one
    piece, in memory that does not grow with the image.
    """
    height, width = truth.shape[:2]
    if min(height, width) < SMALLEST_EDGE:
        raise ValueError(f"SSIM needs {SMALLEST_EDGE} pixels each way, not {list(truth.shape)}")
    band, reach = max(1, PIXELS_A_BAND // width), SMALLEST_EDGE // 2
    total = 0.0
    for start in range(0, height, band):
        first, stop = max(0, start - reach), min(height, start + band)
        rows = slice(first, min(height, stop + reach))
        total += float(_similarity(truth[rows], render[rows])[start - first : stop - first].sum())
    return total / (3 * height * width)


def _similarity(truth: Tensor, render: Tensor) -> Tensor:
    """Similarity around every pixel and channel: [H, W, 3]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(
        *_pair(truth, render),
        sigma=1.5,
        kernel_size=SMALLEST_EDGE,
        data_range=1.0,
        return_full_image=True,
    )
    if isinstance(found, Tensor):
        raise TypeError("torchmetrics returned the mean alone")
    similarity: Tensor = found[1][0].permute(1, 2, 0)
    return similarity


def summarise(per_image: Sequence[ImageScore]) -> dict[str, float | int | str | None]:
    """Average the scores of the images: the MEAN of per-image values, as papers report them.

    Returns
    -------
    images (their number), psnr, ssim (None where no image has one), lpips (None) and
    lpips_reason: plain values for JSON.

    """
    similar = [one.ssim for one in per_image if one.ssim is not None]
    return {
        "images": len(per_image),
        "psnr": fmean(one.psnr for one in per_image) if per_image else None,
        "ssim": fmean(similar) if similar else None,
        "lpips": None,
        "lpips_reason": NO_LPIPS,
    }


def _pair(truth: Tensor, render: Tensor) -> tuple[Tensor, Tensor]:
    """Two [H, W, 3] -> (render, truth), each [1, 3, H, W] in [0, 1].

    In float64: the variance of a flat patch, a difference of squares, is wrong by 3e-4 in float32.
    """
    if truth.shape != render.shape or truth.ndim != 3:
        raise ValueError(f"truth {list(truth.shape)} and render {list(render.shape)} differ")
    if not render.isfinite().all():
        raise ValueError("the render holds colours that are not finite")
    render, truth = (
        image.detach().to(torch.float64).clamp(0, 1).permute(2, 0, 1)[None]
        for image in (render, truth)
    )
    return render, truth
