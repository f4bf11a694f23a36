"""PSNR and SSIM against numbers that can be worked out by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfxl import metrics
from nerfxl.metrics import LARGEST_PSNR, ImageScore, psnr, score, ssim, summarise


@settings(deadline=None)  # the first call imports torchmetrics
@given(st.floats(0.01, 1.0))
def test_psnr_of_a_constant_error(error: float) -> None:
    truth = torch.zeros(12, 13, 3)
    assert psnr(truth, truth + error) == pytest.approx(-20 * math.log10(error), abs=1e-5)


def test_psnr_is_over_the_whole_image() -> None:
    # One of 4 pixels is wrong by 1 in one of 3 channels: mean squared error 1/12.
    render = torch.zeros(2, 2, 3)
    render[0, 1, 2] = 1
    assert psnr(torch.zeros(2, 2, 3), render) == pytest.approx(10 * math.log10(12), abs=1e-4)


def test_equal_images() -> None:
    image = torch.rand(16, 20, 3, generator=torch.Generator().manual_seed(0))
    assert psnr(image, image) == LARGEST_PSNR
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-6)


def test_ssim_of_two_constant_images() -> None:
    # No variance: SSIM = (2 a b + c1) / (a^2 + b^2 + c1) with c1 = 0.01^2.
    a, b = 0.25, 0.75
    truth, render = torch.full((24, 24, 3), a), torch.full((24, 24, 3), b)
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert ssim(truth, render) == pytest.approx(expected, abs=1e-9)


def test_ssim_does_not_depend_on_the_layout_of_the_axes() -> None:
    generator = torch.Generator().manual_seed(1)
    truth, noise = torch.rand(2, 16, 30, 3, generator=generator)
    render = (truth + 0.1 * noise).clamp(0, 1)
    turned = ssim(truth.transpose(0, 1), render.transpose(0, 1))
    assert 0 < ssim(truth, render) < 1
    assert turned == pytest.approx(ssim(truth, render), abs=1e-5)


def test_a_tiny_image_has_no_ssim() -> None:
    image = torch.zeros(10, 40, 3)
    assert score("tiny", image, image) == ImageScore("tiny", LARGEST_PSNR, None)
    with pytest.raises(ValueError, match=r"SSIM needs 11 pixels each way, not \[10, 40, 3\]"):
        ssim(image, image)


def test_images_must_be_alike_and_finite() -> None:
    image = torch.zeros(12, 12, 3)
    with pytest.raises(ValueError, match=r"truth \[12, 12, 3\] and render \[12, 11, 3\] differ"):
        psnr(image, image[:, :11])
    with pytest.raises(ValueError, match="not finite"):
        psnr(image, image / 0)


def test_the_summary_is_the_mean_of_the_images() -> None:
    # The mean of 20 and 30 dB, not the PSNR of the pooled error (22.6 dB).
    found = summarise([ImageScore("a", 20.0, 0.5), ImageScore("b", 30.0, 0.75)])
    assert (found["images"], found["psnr"], found["ssim"]) == (2, 25.0, 0.625)
    assert found["lpips"] is None
    assert "not computed" in str(found["lpips_reason"])
    json.dumps(found, allow_nan=False)


def test_the_summary_of_nothing_is_null() -> None:
    assert summarise([])["psnr"] is None
    assert summarise([ImageScore("tiny", 9.0, None)])["ssim"] is None


def test_torchmetrics_is_imported_late_and_quietly() -> None:
    program = (
        "import sys, torch, nerfxl.metrics as m; assert 'torchmetrics' not in sys.modules; "
        "m.score('a', torch.zeros(16, 16, 3), torch.zeros(16, 16, 3))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_similarity_in_bands_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    truth, render = (torch.rand(37, 23, 3, generator=draw) for _ in range(2))
    whole = ssim(truth, render)
    for rows in (1, 4, 26, 36):
        monkeypatch.setattr(metrics, "PIXELS_A_BAND", 23 * rows)
        assert ssim(truth, render) == pytest.approx(whole, abs=1e-12)
