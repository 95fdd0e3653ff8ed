"""Bytes to views: the decoders, and the process that isolates them."""
