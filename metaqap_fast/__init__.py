"""metaqap-fast: no-reference image quality scores for whole data sets.

    >>> import metaqap_fast
    >>> table = metaqap_fast.score("photos/")          # doctest: +SKIP
    >>> table.paths[0], table.score[0], table.uncertainty[0]   # doctest: +SKIP
    ('a.jpg', 0.71, 0.06)

`Scorer` keeps the model compiled between calls and also takes bytes and arrays. `metaqap_fast.ray.score` scores the
images of a Ray dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaqap_fast.errors import MetaqapError, Status, UsageError
    from metaqap_fast.evaluation import Evaluation, evaluate
    from metaqap_fast.progress import Progress
    from metaqap_fast.records import Row
    from metaqap_fast.review.explain import Explanation, explain
    from metaqap_fast.scorer import Scorer, score
    from metaqap_fast.scores.table import ScoreTable

__version__ = "0.2.0"
__all__ = [
    "Evaluation",
    "Explanation",
    "MetaqapError",
    "Progress",
    "Row",
    "ScoreTable",
    "Scorer",
    "Status",
    "UsageError",
    "__version__",
    "evaluate",
    "explain",
    "score",
]

_HOMES = {
    "Evaluation": "evaluation",
    "Explanation": "review.explain",
    "MetaqapError": "errors",
    "Progress": "progress",
    "Row": "records",
    "ScoreTable": "scores.table",
    "Scorer": "scorer",
    "Status": "errors",
    "UsageError": "errors",
    "evaluate": "evaluation",
    "explain": "review.explain",
    "score": "scorer",
}


def __getattr__(name: str) -> Any:
    # Imported when first used: `import metaqap_fast` and `--help` must not wait for numpy.
    import importlib

    if name == "ray":
        return importlib.import_module(f"{__name__}.scale.ray")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
