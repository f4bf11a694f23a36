"""Packed samples -> one Segment per ray."""

from nerfxl_kernels.segment.op import segment

__all__ = ["segment"]
