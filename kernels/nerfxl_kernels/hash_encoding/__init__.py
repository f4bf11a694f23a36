"""Multiresolution hash encoding: points -> features."""

from nerfxl_kernels.hash_encoding.op import hash_encoding, resolutions

__all__ = ["hash_encoding", "resolutions"]
