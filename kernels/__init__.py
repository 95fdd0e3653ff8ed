"""Operations compiled for the GPU; empty until the Triton kernels land."""
