"""nerfxl: neural radiance fields larger than one GPU (NeRF-XL, arXiv 2404.16221)."""

__version__ = "0.1.0"
