"""What this project compiles for the GPU: the meta-ensemble, the quality-aware loss and the soft rank correlation.

Every call takes CPU tensors too, without Triton. Importing this package imports torch; `import metaqap_fast` does not.
"""

from __future__ import annotations

from metaqap_fast.errors import MetaqapError

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise MetaqapError("metaqap_fast.kernels needs torch: pip install 'metaqap-fast[gpu]'") from None

from metaqap_fast.kernels.launch import interpreted
from metaqap_fast.kernels.qa_ensemble import combine, quality_aware_loss
from metaqap_fast.kernels.soft_spearman import soft_spearman

__all__ = ["combine", "interpreted", "quality_aware_loss", "soft_spearman"]
