"""Triton kernels for batches of small matrices on GPUs; imported where the first CUDA tensor arrives."""

from manifoldnorm.linalg.gpu._launch import LARGEST, LARGEST_ADJOINT, adjoint, eigen, trouble

__all__ = ["LARGEST", "LARGEST_ADJOINT", "adjoint", "eigen", "trouble"]
