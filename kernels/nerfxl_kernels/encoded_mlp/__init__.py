"""Hash encoding and perceptron in one, for rendering."""

from nerfxl_kernels.encoded_mlp.op import encoded_mlp

__all__ = ["encoded_mlp"]
