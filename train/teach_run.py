"""One command from a bundle to one whose networks have learned damage of every kind: see, fine-tune, combine, write.

The bundle written has no hidden units, for they would read other taps: `train heads` fits them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaqap_fast.errors import UsageError
from metaqap_fast.evaluation import measure
from metaqap_fast.model import bundle as bundles
from metaqap_fast.model.bundle import Bundle
from metaqap_fast.train import large, large_ladders, material, refit_run, rungs
from metaqap_fast.train.build import write_bundle
from metaqap_fast.train.changed import changed
from metaqap_fast.train.damage import PROBES
from metaqap_fast.train.features import middle_views
from metaqap_fast.train.large_ladders import LargeLadders
from metaqap_fast.train.lessons import PROBE, Taught, lessons
from metaqap_fast.train.lower import Kept, Lower, keep
from metaqap_fast.train.material import Pictures, Plans, Settings
from metaqap_fast.train.member import VIEW_SIZE, Features
from metaqap_fast.train.members import SEED, Examples, Trained, held_out_facts
from metaqap_fast.train.networks import Config, read_config
from metaqap_fast.train.opinion import Opinions, of_originals, opinions, read_cells, straight, targets
from metaqap_fast.train.recipe import Recipe, recipe_for
from metaqap_fast.train.refit import shipped_scores
from metaqap_fast.train.revise import write_json
from metaqap_fast.train.run import folder_for, prepare
from metaqap_fast.train.rungs import Rung
from metaqap_fast.train.shipped import shipped_head, shipped_network
from metaqap_fast.train.teach import Damaged, Photographs, Teaching, predictions, teach
from metaqap_fast.train.trial import trial

F64 = NDArray[np.float64]
View = NDArray[np.uint8]
LARGE = 3  # times that a ladder of a large photograph counts like another


@dataclass(frozen=True, slots=True)
class Pupil:
    """A member that is taught: its network and head as they are, and how it is fine-tuned."""

    name: str
    entry: dict[str, Any]
    config: Config
    features: Features
    head: tuple[F64, float]
    recipe: Recipe


def run(
    name: str,
    root: Path,
    output: Path,
    work: Path,
    model: str,
    pictures: Pictures,
    low: float | None = None,
    high: float | None = None,
    bundle_name: str | None = None,
    changes: dict[str, Any] | None = None,
) -> str:
    """Teach a bundle's networks damage and write a bundle of them; returns the figures of each member as text.

    Args:
        name: of the labelled set, see `datasets.load`, as are root, low and high.
        root: where it is.
        output: the new bundle's folder.
        work: folder of caches and runs; a second call goes on from it.
        model: the bundle: a name or a folder.
        pictures: as for `train heads`; strange ones teach nothing here.
        low: see `datasets.load`.
        high: see `datasets.load`.
        bundle_name: of the new bundle.
        changes: entries of `Teaching` and of `material.Settings`.
    """
    settings, teaching = settings_of(changes or {})
    cells = read_cells(pictures.opinions)  # before hours are spent
    bundle = bundles.load(model)
    if bundle.view_size != VIEW_SIZE:
        raise UsageError(
            f"the model {bundle.name} sees {bundle.view_size} pixels: give one that sees {VIEW_SIZE}, and make a small "
            "model of what comes out (train distil)"
        )
    set_, _, data = prepare(name, root, work, None, low, high)
    folder_for(output)
    pupils = [_pupil(entry, file.file) for entry, file in zip(bundle.document["members"], bundle.members, strict=True)]
    plans = material.plans(data, pictures.photographs, settings)
    seen = _folder(bundle, pupils, settings)
    kept, ladders = _see(pupils, data, plans, pictures.large, work / seen, settings)
    damaged = _damaged(bundle, plans, kept, ladders, opinions(cells))
    taught = Photographs(kept["labelled"], data.mos[plans.used["labelled"]])
    members, figures = [], {}
    for place, pupil in enumerate(pupils):
        how = asdict(pupil.recipe) | asdict(teaching)
        folder = work / "taught" / f"{seen}-{pupil.name}-{rungs.name_of((), {**how, 'share': None})}"
        trainee = teach(
            folder, place, pupil.features, pupil.head, taught, damaged, pupil.recipe, teaching, SEED + place
        )
        held, judged = (predictions(trainee, place, kept[part]) for part in ("held", "validation"))
        values = measure(held, data.mos[plans.used["held"]])
        found = trial(plans.rungs["validation"], judged, cells)
        figures[pupil.name] = found.summary() | values
        everywhere = np.full(len(data.files), np.nan)
        everywhere[plans.used["held"]] = held
        facts = {key: value for key, value in pupil.entry.items() if key not in ("name", "file", "ranges", "units")}
        facts |= {"taught": how, "held_out": held_out_facts(values, len(held))}
        members.append(Trained(pupil.name, pupil.config, trainee.member(pupil.features), everywhere, facts))
    training = {"data": set_.name, "mos_range": [set_.low, set_.high], "budget": "cpu", "taught_from": bundle.name}
    write_bundle(output, bundle_name or f"{bundle.name}-taught", members, data, training, _card(bundle))
    return write_json(output / "taught.json", {"settings": asdict(settings) | asdict(teaching), **figures})


def settings_of(changes: dict[str, Any]) -> tuple[Settings, Teaching]:
    """Settings of what is seen and of fine-tuning, with some entries changed.

    Raises:
        UsageError: there is no such entry, or its value is of another type or out of range.
    """
    seen = ("images", "photographs", "better", "checked", "judged", "kinds", "precision")
    fits = [f.name for f in fields(Teaching)]
    for entry in changes:
        if entry not in (*seen, *fits):
            raise UsageError(f"there is no setting {entry!r}: {', '.join((*seen, *fits))}")
    settings = refit_run.settings_of({entry: value for entry, value in changes.items() if entry in seen})
    try:
        teaching = changed(Teaching(), {entry: value for entry, value in changes.items() if entry in fits})
        if min(teaching.steps, teaching.batch, teaching.lessons, teaching.levels) < 1 or teaching.damage < 0:
            raise ValueError("counts are above 0, damage at least 0")
        if not 0 <= teaching.share <= 1:
            raise ValueError("share is from 0 to 1")
    except ValueError as error:
        raise UsageError(f"--set: {error}") from None
    return settings, teaching


def _pupil(entry: dict[str, Any], file: Path) -> Pupil:
    config = read_config(entry["name"])
    recipe = recipe_for(config, "cpu", **config.recipe.get("damage", {}))
    network = shipped_network(file, config)
    if recipe is None or not 0 < recipe.frozen_stages < len(network.stages):
        raise UsageError(
            f"{entry['name']}: its configuration has to leave some of {len(network.stages)} stages as they are, and "
            "some to train (epochs above 0, frozen_stages in [recipe.damage])"
        )
    return Pupil(entry["name"], entry, config, Features(config, network), shipped_head(file), recipe)


def _folder(bundle: Bundle, pupils: Sequence[Pupil], settings: Settings) -> str:
    """Of what these networks, as they are, make of views up to these stages."""
    parts = [material.cache_of(bundle, Path(), settings).name, *(str(pupil.recipe.frozen_stages) for pupil in pupils)]
    return "-".join(parts)


def _see(
    pupils: Sequence[Pupil],
    data: Examples,
    plans: Plans,
    large_photographs: Path | None,
    folder: Path,
    settings: Settings,
) -> tuple[dict[str, Kept], LargeLadders | None]:
    """What the stages below those that are trained make of every view, by part."""
    stages = [each.recipe.frozen_stages for each in pupils]
    lower = Lower([each.features for each in pupils], stages, settings.precision)

    def labelled(rows: NDArray[np.int64]) -> Callable[[int, int], Iterable[View]]:
        return lambda start, stop: middle_views([data.files[row] for row in rows[start:stop]])

    def damaged(files: Sequence[Path], steps: Sequence[Rung]) -> Callable[[int, int], Iterable[View]]:
        return lambda start, stop: rungs.views(files, steps[start:stop])

    kept = {part: keep(lower, len(rows), labelled(rows), folder / part) for part, rows in plans.used.items()}
    for part, steps in plans.rungs.items():
        name = f"{part}-{rungs.name_of(plans.files[part], steps)}"
        kept[part] = keep(lower, len(steps), damaged(plans.files[part], steps), folder / name)
    if large_photographs is None:
        return kept, None
    files = large.files_of(large_photographs, "train")
    ladders = large_ladders.ladders(files)
    if not ladders.copies:
        raise UsageError(f"{large_photographs}: no photograph of {large.LEAST} lines or more")
    views = partial(large_ladders.views, ladders)
    kept["large"] = keep(lower, len(ladders.copies), views, folder / f"large-{rungs.name_of(files, ladders.copies)}")
    return kept, ladders


def _damaged(
    bundle: Bundle, plans: Plans, kept: dict[str, Kept], ladders: LargeLadders | None, said: Opinions
) -> list[Damaged]:
    """What is taught of every part, on the scale of the bundle's own scores."""
    found = []
    for part in (each for each in material.TAUGHT if each in plans.rungs):
        steps = plans.rungs[part]
        score = of_originals(steps, _scores(bundle, kept[part]))
        share = targets(steps, score, said, straight) / score
        weight = np.array([PROBE if len(r.steps) == 1 and r.steps[0].kind in PROBES else 1.0 for r in steps])
        found.append(Damaged(kept[part], lessons(steps), Taught(score * (share - 1), score, weight)))
    if ladders is not None:
        score = _scores(bundle, kept["large"])
        unknown = np.full(len(score), np.nan)
        often = ladders.lessons * LARGE
        found.append(Damaged(kept["large"], often, Taught(unknown, score, np.ones(len(score)))))
    return found


def _scores(bundle: Bundle, kept: Kept) -> F64:
    return shipped_scores(bundle, [kept.pooled(place) for place in range(len(bundle.members))])


def _card(bundle: Bundle) -> str:
    return f"# Model card\n\nThe networks of {bundle.name}, taught damage (bundle.json). They lack hidden units.\n"
