"""The numerical kernels of nerfxl, one folder an operation; torch, numba and triton only."""
