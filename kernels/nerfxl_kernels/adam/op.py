"""Adam (Kingma and Ba 2015, algorithm 1) in one pass, in place, with sparse semantics.

Entries whose gradient is exactly zero are skipped: neither the entry nor its moments move. On
entries whose gradient is not zero the result equals `torch.optim.Adam` as long as they are touched
at every step; after a pause their moments have not decayed. Instant NGP does the same.
"""

from __future__ import annotations

from torch import Tensor

from nerfxl_kernels import backend


def adam(
    parameter: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    rate: float,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-15,
) -> None:
    """Take one step and set grad to zero.

    Parameters
    ----------
    parameter, grad, first, second: same shape and dtype, contiguous: the parameter, its gradient
        and the two moments, all changed in place.
    step: 1 for the first. rate: learning rate.

    Raises
    ------
    ValueError
        If shapes disagree, a tensor is not contiguous, or step < 1.
    """
    tensors = (parameter, grad, first, second)
    if len({tensor.shape for tensor in tensors}) != 1:
        raise ValueError(f"adam: found shapes {[tuple(t.shape) for t in tensors]}, expected one")
    if step < 1 or not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError(f"adam: step {step}, contiguous {[t.is_contiguous() for t in tensors]}")
    kernels = backend.load("adam", parameter)
    kernels.adam(parameter, grad, first, second, step, rate, betas, eps)
