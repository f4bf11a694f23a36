"""The small multilayer perceptrons of a radiance field."""

from nerfxl_kernels.mlp.op import mlp

__all__ = ["mlp"]
