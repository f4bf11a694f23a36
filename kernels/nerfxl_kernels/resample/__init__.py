"""A proposal's bins -> few, well-placed samples; and what the proposal learns from them."""

from nerfxl_kernels.resample.op import interlevel, optical_depth, resample

__all__ = ["interlevel", "optical_depth", "resample"]
