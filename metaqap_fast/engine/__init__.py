"""Pixels to member predictions: which engines there are, and the making of one."""

from __future__ import annotations

import logging
from contextlib import nullcontext

from metaqap_fast.engine import cpu
from metaqap_fast.engine.choice import Choice, choose
from metaqap_fast.engine.protocol import Engine, Unsuited
from metaqap_fast.engine.table import ENGINES, either
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.gpu_errors import starting
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.options import PRECISIONS

log = logging.getLogger(__name__)


def create(
    bundle: Bundle,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    choice: Choice | None = None,
) -> Engine:
    """The engine for a bundle on this machine; `auto` is explained in `choice.choose`.

    Its `reason` says why it was taken, and why others were not. `choice` is what `choose` has said before: the driver
    may say something else when it is asked again.

    Raises:
        UsageError: an engine, device or precision that does not exist or cannot run here.
        MetaqapError: packages or a GPU are missing; the engine that was asked for cannot run the bundle here.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}: one of {', '.join(PRECISIONS)}")
    cpu.limit_onednn()  # torch's, too; and a METAQAP_FAST_ISA that cannot be is said at once
    choice = choice or choose(engine, device)
    if choice.warning:
        log.warning(choice.warning)
    if precision == "auto" and engine == "auto" and choice.gpu is None:
        precision = cpu.default_precision()
    offering = [name for name in choice.engines if precision in ("auto", *ENGINES[name].precisions)]
    if not offering:
        have = {each for name in choice.engines for each in ENGINES[name].precisions}
        here = [each for each in PRECISIONS if each in have and (choice.gpu is not None or cpu.multiplies_in(each))]
        one = len(choice.engines) == 1
        who = f"the {choice.engines[0]} engine has" if one else f"the engines {' and '.join(choice.engines)} have"
        raise UsageError(f"{who} no {precision}: use --precision {either(here)}")
    said, made = [choice.reason], None
    for name in choice.engines:
        if name not in offering:
            said.append(f"the {name} engine has no {precision}")
            continue
        try:
            with starting(choice.gpu.device) if choice.gpu else nullcontext():
                made = ENGINES[name].make(bundle, precision, choice.gpu)
            break
        except Unsuited as unsuited:
            said.append(f"the {name} engine does not run: {unsuited}")
    if made is None:
        raise MetaqapError("; ".join(said[1:]))
    if precision not in ("auto", made.precision):
        made.close()
        raise MetaqapError(f"{precision} was asked for, but the {made.name} engine runs {made.precision} here")
    made.reason = "; ".join([*said, made.reason] if made.reason else said)
    return made
