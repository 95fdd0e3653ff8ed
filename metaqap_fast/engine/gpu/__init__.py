"""Engines on a GPU: TensorRT, and torch as their reference."""
