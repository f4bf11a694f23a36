"""Figures of the kernels: their speed against peers and floors, and what compilers make of them."""
