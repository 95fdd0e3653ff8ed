"""Turns data into model bundles. Needs the `train` extra; imports nothing from `scorer` or `store`."""
