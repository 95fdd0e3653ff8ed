"""Layouts and limits that the torch and the Triton side of an operator share."""

from __future__ import annotations

STATS = 7
"""fp64 numbers that the loss hands to its backward: unusable rows, the shifts of y and t, then the coefficients of
y - t, X, Z and X - Z in dL/dy (see `qa_ensemble_triton`). The M column means of the members follow them."""

PARTIALS = 13
"""fp64 numbers per block that stage 1 of the loss hands to stage 2. M column sums of the members follow them."""

ZERO_STD = 1e-12
"""Standard deviation of exp(y) / mean(exp(y)), relative to 1 + |log mean exp(y)|, up to which y counts as constant."""

SPEARMAN_STATS = 4
"""fp64 numbers that `soft_spearman` hands to its backward: unusable rows, then the coefficients of the soft ranks of
the scores, of those of the MOS and of their difference in dL/da (see `soft_spearman_triton`)."""
