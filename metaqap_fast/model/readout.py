"""From an engine's columns to the members' predictions and the reasons: one hidden layer beside the members.

A member gives its prediction and, it may be, its share of U hidden units. The units see what all members see. Their
last layer, which is too small to be worth a place in an engine, corrects every prediction and says what is wrong with a
picture:

    unit_u   = max(0, sum_m columns[m, u])
    change   = bias_0 + sum_u weights[u, 0] unit_u             added to every member's prediction
    root     = bias_r + sum_u weights[u, r] unit_u             of reason r = 1 ... R
    severity = max(0, min(root, 1/2 + (1 + steeper_r) (root - 1/2)))^2

The square, because mild damage has to be told from none, and counts for little where severities themselves are
fitted. Below 1/2, where no reason is named, a root may fall more steeply, so that good photographs are near 0. A model
without units has predictions alone.

The last F of the units may be of another kind: of an image's fine view (`metaqap_fast.decode.views`), which only they
look at, as they look at nothing else. They can lower every prediction, and say no more than that. Of a picture whose
other views are poor already a fine view tells nothing that they do not; it loses a fixed amount instead. Of two
pictures with the same fine view, the one with better predictions keeps them:

    told     = max(poor - fair - lost, min(0, fine_bias + sum_f fine_weights[f] unit_f))
    share    = max(0, min(1, (prediction - poor) / (fair - poor)))        of the mean of the members' predictions
    lowered  = share told - (1 - share) lost
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Fading = tuple[float, float, float]  # poor, fair and lost, see above
NEVER: Fading = (-2.0, -1.0, 0.0)  # no prediction is as poor: fine views always tell
LEVEL = 0.5  # root from which a reason is named
NAMED = LEVEL**2  # severity from which a reason is named; bundles are calibrated so that few good photographs reach it
Values = TypeVar("Values", NDArray[np.float32], "Tensor")


@dataclass(frozen=True, slots=True)
class Readout:
    """What the columns are that an engine gives, and the last layer of the hidden units.

    Attributes:
        scores: columns of the members' predictions.
        units: for each member that has a share of the U units, its columns; empty without units.
        weights: [U, 1 + R].
        bias: [1 + R].
        steeper: [R], at least 0.
        fine_weights: [F], of the units behind the first U.
        fine_bias: beside them.
        fading: of what they say, for poor pictures.
    """

    scores: tuple[int, ...]
    units: tuple[range, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()
    bias: tuple[float, ...] = (0.0,)
    steeper: tuple[float, ...] = ()
    fine_weights: tuple[float, ...] = ()
    fine_bias: float = 0.0
    fading: Fading = NEVER
    _made: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def columns(self) -> int:
        """Of an engine's rows."""
        return len(self.scores) + sum(map(len, self.units))

    @property
    def reasons(self) -> int:
        """R."""
        return len(self.bias) - 1

    def __call__(self, columns: Values) -> tuple[Values, Values]:
        """Columns [B, columns] to members [B, M] and severities [B, R], float32, on the same device.

        Severities are 0 where there is nothing and 1 where it could not be worse; they are not cut off there. A row
        depends on itself alone.
        """
        # By slices: a list of columns is a tensor that has to go to the device, for which the host waits.
        members = _side_by_side([columns[:, place : place + 1] for place in self.scores])
        if not self.units:
            return members, columns[:, :0]
        weights, bias, steeper, _ = self._constants(columns)
        hidden = self._hidden(columns)[:, : len(self.weights)]
        # A product would add up in another order for another number of rows; this is small.
        given = (hidden.clip(0)[:, :, None] * weights).sum(1) + bias
        roots = given[:, 1:] - ((LEVEL - given[:, 1:]) * steeper).clip(0)
        return members + given[:, :1], roots.clip(0) ** 2

    def lowered(self, columns: Values, members: Values) -> Values:
        """What every prediction changes by [B, 1], float32, at most 0.

        Args:
            columns: of fine views [B, columns].
            members: what the other views give [B, M].
        """
        *_, weights = self._constants(columns)
        hidden = self._hidden(columns)[:, len(self.weights) :]
        told = (hidden.clip(0) * weights).sum(1) + self.fine_bias
        change: Values = faded(told, members.mean(1), self.fading)[:, None]
        return change

    def _hidden(self, columns: Values) -> Any:
        """What the units add up to [B, U + F]."""
        return sum(columns[:, places.start : places.stop] for places in self.units)

    def _constants(self, columns: Values) -> tuple[Any, Any, Any, Any]:
        """`weights`, `bias`, `steeper` and `fine_weights` as arrays, or as tensors where the columns are; made once:
        to bring them there makes the host wait."""
        place = None if isinstance(columns, np.ndarray) else columns.device
        if place not in self._made:
            values = self.weights, self.bias, self.steeper, self.fine_weights
            if place is None:
                made = [np.array(each, np.float32) for each in values]
            else:
                import torch

                with torch.inference_mode(False):
                    made = [torch.tensor(each, dtype=torch.float32, device=place) for each in values]
            self._made[place] = tuple(made)
        found: tuple[Any, Any, Any, Any] = self._made[place]
        return found


def faded(told: Any, prediction: Any, fading: Fading) -> Any:
    """What predictions [n] change by, from what units say of fine views [n], see above."""
    poor, fair, lost = fading
    share = ((prediction - poor) / (fair - poor)).clip(0, 1)
    return share * told.clip(poor - fair - lost, 0) - (1 - share) * lost


def _side_by_side(columns: list[Values]) -> Values:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns, 1)
    import torch

    return torch.cat(columns, 1)
