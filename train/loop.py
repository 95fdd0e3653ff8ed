"""One training run that survives a kill: the loop that pretraining and fine-tuning share.

Everything random in step s is drawn from a generator seeded with (seed, s), and the rows of step s are a
function of (seed, s) too. So sampler and random state are one number, the step, and a run that goes on from
its checkpoint ends at the very weights of a run that was never stopped (tested).
"""

from __future__ import annotations

import csv
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metaqap_fast.errors import MetaqapError

log = logging.getLogger(__name__)

WARMUP = 0.05  # of the steps
SMOOTHING = 0.98  # of the loss that is shown


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that share a peak learning rate; `decay` is AdamW's."""

    parameters: Sequence[nn.Parameter]
    rate: float
    decay: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often.

    `ema` is the decay of the averaged weights, reached after a warm-up; `validate_every` and
    `checkpoint_every` count steps, 0 for only at the end.
    """

    steps: int
    seed: int
    ema: float = 0.99
    validate_every: int = 0
    checkpoint_every: int = 100
    log_every: int = 20
    clip: float = 1.0


def learning_rate(step: int, steps: int) -> float:
    """Factor of the peak rate: linear warm-up, then half a cosine down to 0."""
    warmup = max(1, round(WARMUP * steps))
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))


def rows_of(step: int, count: int, batch: int, seed: int) -> NDArray[np.int64]:
    """The rows [batch] of a step: every epoch is a new permutation of `count` rows, its remainder left out."""
    per_epoch = max(1, count // batch)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return order[place * batch : (place + 1) * batch]


def fit(
    run: Path,
    groups: Sequence[Group],
    loss: Callable[[int, torch.Generator], Tensor],
    plan: Plan,
    validate: Callable[[], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Minimise `loss`, and leave the averaged weights in the parameters.

    Args:
        run: folder of the run: `checkpoint.pt`, `log.csv` and `curve.png`. A finished run's weights are read
            back and nothing is trained; an unfinished one goes on.
        groups: what is trained.
        loss: the loss of a step, a function of the step, the parameters and the generator (on the CPU) alone.
            The global generator is seeded with it too, for dropout.
        plan: see `Plan`.
        validate: metrics of the averaged weights, which are in place while it runs.

    Returns:
        the last metrics, empty without `validate`.

    Raises:
        MetaqapError: the loss is no longer finite, or the checkpoint is of another run.
    """
    run.mkdir(parents=True, exist_ok=True)
    parameters = [parameter for group in groups for parameter in group.parameters]
    state = _State(run / "checkpoint.pt", groups, plan)
    history = History(run, state.step)
    shown = 0.0
    start, first = time.monotonic(), state.step
    while state.step < plan.steps:
        step = state.step
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        torch.manual_seed(plan.seed * 1_000_003 + step)
        for group, settings in zip(groups, state.optimizer.param_groups, strict=True):
            settings["lr"] = group.rate * learning_rate(step, plan.steps)
        value = loss(step, generator)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, plan.clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.average(plan.ema)
        state.step += 1
        current = float(value.detach())
        if not math.isfinite(current):
            raise MetaqapError(f"{run}: the loss of step {step} is {current}; lower the learning rate")
        shown = current if step == first else SMOOTHING * shown + (1 - SMOOTHING) * current
        last = state.step == plan.steps
        if validate and (last or (plan.validate_every and state.step % plan.validate_every == 0)):
            with state.averaged():
                state.metrics = validate()
        if last or state.step % plan.log_every == 0:
            remaining = (time.monotonic() - start) / (state.step - first) * (plan.steps - state.step)
            history.add(state.step, shown, state.metrics)
            quality = "".join(f", {name} {number:.4f}" for name, number in state.metrics.items())
            log.info(
                "%s: step %d of %d, loss %.4f%s, %.0f s left",
                run.name,
                state.step,
                plan.steps,
                shown,
                quality,
                remaining,
            )
        if last or state.step % plan.checkpoint_every == 0:
            state.save()
    history.plot()
    state.settle()
    return state.metrics


class _State:
    """Parameters, their running average, the optimizer and the step: what a checkpoint holds."""

    def __init__(self, path: Path, groups: Sequence[Group], plan: Plan) -> None:
        self.path, self.plan, self.step = path, plan, 0
        self.metrics: dict[str, float] = {}
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        self.mean = [parameter.detach().clone() for parameter in self.parameters]
        settings = [{"params": list(g.parameters), "lr": g.rate, "weight_decay": g.decay} for g in groups]
        self.optimizer = torch.optim.AdamW(settings)
        if path.exists():
            self._load()

    def _load(self) -> None:
        stored: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        found = (stored["steps"], stored["seed"], [list(x.shape) for x in stored["mean"]])
        if found != (self.plan.steps, self.plan.seed, [list(x.shape) for x in self.mean]):
            raise MetaqapError(f"{self.path} is the checkpoint of another run: remove its folder, or name another")
        self.step, self.metrics = stored["step"], stored["metrics"]
        with torch.no_grad():
            for old, new in zip([*self.parameters, *self.mean], [*stored["parameters"], *stored["mean"]], strict=True):
                old.copy_(new)
        if stored["optimizer"]:
            self.optimizer.load_state_dict(stored["optimizer"])
        log.info("%s: going on from step %d", self.path.parent.name, self.step)

    def save(self) -> None:
        """Write the checkpoint and put it in place in one move; a finished run keeps only its weights."""
        finished = self.step == self.plan.steps
        document = {
            "step": self.step,
            "steps": self.plan.steps,
            "seed": self.plan.seed,
            "metrics": self.metrics,
            "mean": self.mean,
            "parameters": self.mean if finished else [parameter.detach() for parameter in self.parameters],
            "optimizer": {} if finished else self.optimizer.state_dict(),
        }
        partial = self.path.with_suffix(".partial")
        with open(partial, "wb") as file:
            torch.save(document, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the running average towards the parameters, faster at the start."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for mean, parameter in zip(self.mean, self.parameters, strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)

    def averaged(self) -> _Averaged:
        """Context in which the parameters hold their average."""
        return _Averaged(self)

    @torch.no_grad()
    def settle(self) -> None:
        """Leave the average in the parameters for good."""
        for mean, parameter in zip(self.mean, self.parameters, strict=True):
            parameter.copy_(mean)


class _Averaged:
    def __init__(self, state: _State) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.current = [parameter.detach().clone() for parameter in self.state.parameters]
        self.state.settle()

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.state.parameters, self.current, strict=True):
                parameter.copy_(value)


class History:
    """The run's `log.csv` (step, loss, then metrics) and its picture."""

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / "log.csv"
        rows = _read(self.path)
        self.rows = [row for row in rows if int(row["step"]) <= step]  # what came after the checkpoint is done again
        self._write()

    def add(self, step: int, loss: float, metrics: dict[str, float]) -> None:
        """One row; metrics are those of the last validation."""
        numbers = {name: f"{value:.5f}" for name, value in {"loss": loss, **metrics}.items()}
        self.rows.append({"step": str(step), **numbers})
        self._write()

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row)) or ["step", "loss"]
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def plot(self) -> None:
        """Draw every column over the steps into `curve.png`."""
        from matplotlib.figure import Figure

        names = [name for name in (self.rows[-1] if self.rows else {}) if name != "step"]
        figure = Figure(figsize=(5 * max(1, len(names)), 3.5), layout="constrained")
        for place, name in enumerate(names, 1):
            axes = figure.add_subplot(1, len(names), place)
            points = [(int(row["step"]), float(row[name])) for row in self.rows if row.get(name)]
            axes.plot(*zip(*points, strict=True))
            axes.set(xlabel="step", ylabel=name)
            axes.grid(alpha=0.3)
        figure.savefig(self.path.with_name("curve.png"), dpi=100)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
