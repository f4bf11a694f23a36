"""Adam for tables of which a step touches few entries."""

from nerfxl_kernels.adam.op import adam

__all__ = ["adam"]
