"""The `train` commands: options in, calls of `metaqap_fast.train` out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from metaqap_fast.cli import shared
from metaqap_fast.errors import UsageError

_PATH = click.Path(path_type=Path)
_STOPPED = "interrupted; what was finished is kept. To go on, give the same command"
_PARTS = ("scores", "reasons", "unfamiliar", "fine", "uncertainty")  # that `heads` can fit alone
Command = Callable[..., None]
_DATA = click.option(
    "--data",
    required=True,
    metavar="NAME",
    help="Kind of data set: biq2021, koniq10k, live_challenge, tid2013, kadid10k or csv.",
)
_ROOT = click.argument("root", type=click.Path(exists=True, path_type=Path))
_WORK = click.option(
    "--work",
    default="work",
    show_default=True,
    type=_PATH,
    help="Folder for caches and unfinished runs. The same command with the same folder continues.",
)
_NETWORKS = click.option(
    "--networks",
    metavar="A,B,...",
    help="Networks to train: shipped configurations or .toml files. NAME@RUN starts from a pretraining run, "
    "NAME@FILE.onnx from a member of a bundle.",
)
_SEED = click.option("--seed", type=int, help="Seed of the random split, for data sets without an official one.")
_LOW = click.option("--low", type=float, help="With --data csv: the MOS of the worst image that the scale allows.")
_HIGH = click.option("--high", type=float, help="With --data csv: the MOS of the best image that the scale allows.")


@click.group(cls=shared.needs("train", _STOPPED), short_help="Train models on rated images (extra: train).")
def train() -> None:
    """Train models on labelled images (extra: train)."""


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


_PHOTOGRAPHS = click.option(
    "--photographs",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of undamaged photographs, to be damaged in every way.",
)
_OPINIONS = click.option(
    "--opinions",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="csv table of mean opinions of KADID-10k, with the columns id, level and mean_opinion.",
)
_STRANGE = click.option(
    "--strange",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of pictures that are not photographs: documents, screens, drawings. The model learns to call such "
    "pictures unfamiliar.",
)
_LARGE = click.option(
    "--large",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of undamaged photographs with at least 1,400 lines, to be scaled and coded at their own size.",
)
_RATED = click.option(
    "--rated",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of labelled sets, as for `bench accuracy`. The uncertainty of large pictures is widened such that it "
    "holds for those of the part 'validation' whose opinions are on a scale.",
)
_SETTINGS = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="ENTRY=VALUE",
    help="Change an entry of the settings. Can be given several times.",
)


def _bundle_name(default: str) -> Callable[[Command], Command]:
    text = f"Name of the bundle, which score files record.  [default: {default}]"
    return click.option("--name", "bundle_name", metavar="NAME", help=text)


def _beside_a_set(name: str) -> Callable[[Command], Command]:
    """The arguments of what is trained on a labelled set and on photographs that are damaged for it; and how the bundle
    is named if the user does not say."""

    def decorate(command: Command) -> Command:
        named = _bundle_name(name)
        options = (_ROOT, _DATA, _WORK, shared.MODEL, _PHOTOGRAPHS, _OPINIONS, _LARGE, _LOW, _HIGH, named, _SETTINGS)
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _pictures(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What units are taught from, and the other options."""
    from metaqap_fast.train.material import Pictures

    pictures = {name: options.pop(name, None) for name in ("photographs", "opinions", "large", "strange", "rated")}
    return Pictures(**pictures), options


@train.command()
@click.argument("photographs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=_PATH, help="Folder to write the runs to, one for each network.")
@_NETWORKS
@shared.DEVICE
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of training steps, each on 16 crops.  [default: 3000]",
)
@click.option(
    "--all-metrics",
    is_flag=True,
    help="Make the labels from all ten metrics, not only the four fast ones; six times as slow.",
)
def pretrain(
    photographs: Path, output: Path, networks: str | None, device: str, steps: int | None, all_metrics: bool
) -> None:
    """Pretrain networks on distorted copies of the photographs in a folder."""
    _log()
    from dataclasses import replace

    from metaqap_fast.input.files import Listing
    from metaqap_fast.train.networks import read_config
    from metaqap_fast.train.pretrain import Pretraining
    from metaqap_fast.train.pretrain import pretrain as run
    from metaqap_fast.train.run import find_device

    settings = replace(Pretraining(), fast_labels=not all_metrics, **({"steps": steps} if steps else {}))
    files = sorted(Path(os.fsdecode(entry.path)) for entry in Listing([photographs]).files())
    for config in [read_config(name) for name in _names(networks)]:
        click.echo(run(output / config.name, config, files, settings, find_device(device)))


@train.command()
@_ROOT
@_DATA
@click.option("-o", "--output", required=True, type=_PATH, help="Folder for the bundle.")
@_WORK
@_NETWORKS
@shared.DEVICE
@click.option(
    "--budget",
    type=click.Choice(["auto", "frozen", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="How much to train. frozen: only heads, on frozen networks; cpu: later stages too; gpu: all, on all folds.",
)
@_SEED
@_LOW
@_HIGH
@_bundle_name("the data set and the budget")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="ENTRY=VALUE",
    help="Change an entry of every recipe, such as epochs=2. Can be given several times.",
)
def run(root: Path, output: Path, networks: str | None, changes: tuple[str, ...], data: str, **options: Any) -> None:
    """Fine-tune networks on the labelled images in ROOT, combine them, and write a bundle."""
    _log()
    from metaqap_fast.train.run import run as train_all

    train_all(data, root, output, networks=_names(networks), **options, **_changes(changes))


@train.command()
@_beside_a_set("the name of the model, with -taught")
@click.option("-o", "--output", required=True, type=_PATH, help="Folder for the bundle and taught.json, its figures.")
def teach(root: Path, output: Path, changes: tuple[str, ...], data: str, **options: Any) -> None:
    """Fine-tune the networks of a model on photographs damaged in every way; `train heads` comes after it."""
    _log()
    from metaqap_fast.train.teach_run import run as teach_all

    pictures, options = _pictures(options)
    click.echo(teach_all(name=data, root=root, output=output, pictures=pictures, changes=_changes(changes), **options))


@train.command()
@_beside_a_set("the name of the model, with -heads")
@click.option("-o", "--output", required=True, type=_PATH, help="Folder for the bundle and heads.json, its figures.")
@_STRANGE
@_RATED
@click.option(
    "--scores-only",
    is_flag=True,
    help="Fit the scores anew; reasons stay as they are.",
)
@click.option(
    "--reasons-only",
    is_flag=True,
    help="Add or replace the reasons; scores stay as they are.",
)
@click.option(
    "--unfamiliar-only",
    is_flag=True,
    help="Replace what tells unfamiliar pictures (give --strange), and what damage adds to the uncertainty; scores and "
    "other reasons stay as they are.",
)
@click.option(
    "--fine-only",
    is_flag=True,
    help="Fit anew what fine views lower (without --large: only how that fades for poor pictures), and with --rated "
    "what they add to the uncertainty; everything else stays as it is.",
)
@click.option(
    "--uncertainty-only",
    is_flag=True,
    help="Replace what damage and fine views add to the uncertainty; everything else stays as it is.",
)
def heads(root: Path, output: Path, changes: tuple[str, ...], data: str, **options: Any) -> None:
    """Refit the heads of a model on photographs damaged in every way, and teach it to give reasons."""
    parts = [part for part in _PARTS if options.pop(f"{part}_only")]
    if len(parts) > 1:
        raise click.UsageError(f"--{parts[0]}-only and --{parts[1]}-only cannot be given together")
    _log()
    from metaqap_fast.train.refit_run import refit

    pictures, options = _pictures(options)
    options["only"] = "".join(parts)
    click.echo(refit(name=data, root=root, output=output, pictures=pictures, changes=_changes(changes), **options))


@train.command()
@_beside_a_set("the name of the model, the member and the size")
@click.option("-o", "--output", required=True, type=_PATH, help="Folder for the bundle and heads.json, its figures.")
@click.option("--member", required=True, metavar="NAME", help="Member of the model that is kept.")
@click.option(
    "--view-size",
    required=True,
    type=click.IntRange(min=64),
    metavar="PIXELS",
    help="Side of the views that it is to see.",
)
@_STRANGE
@_RATED
def distil(root: Path, output: Path, changes: tuple[str, ...], data: str, **options: Any) -> None:
    """Make a small, fast model that says what a larger one says."""
    _log()
    from metaqap_fast.train.distil import distil as make

    pictures, options = _pictures(options)
    click.echo(make(name=data, root=root, output=output, pictures=pictures, changes=_changes(changes), **options))


@train.command()
@_ROOT
@_DATA
@click.option("-o", "--output", required=True, type=_PATH, help="Folder to write the table to, as .md and .json.")
@_WORK
@click.option(
    "--network",
    default="mobilenetv2",
    show_default=True,
    metavar="NAME",
    help="Network to compare pretraining and losses on.",
)
@_NETWORKS
@click.option("--pretraining", type=_PATH, help="Folder of the network's pretraining run.")
@shared.DEVICE
@_SEED
@_LOW
@_HIGH
@click.option("--test", is_flag=True, help="Also score the test split, once, at the end.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="ENTRY=VALUE",
    help="Change an entry of every recipe, such as epochs=2. Can be given several times.",
)
def ablation(root: Path, networks: str | None, changes: tuple[str, ...], **options: Any) -> None:
    """Measure what pretraining, the loss and the meta-learner contribute."""
    _log()
    from metaqap_fast.train.ablation import ablation as measure

    click.echo(measure(root=root, networks=_names(networks), changes=_changes(changes), **options))


def _names(networks: str | None) -> list[str]:
    from metaqap_fast.train.run import DEFAULT_NETWORKS

    if networks is None:
        return list(DEFAULT_NETWORKS)
    names = [name for name in networks.split(",") if name]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--networks {networks!r}: names, separated by commas, each once")
    return names


def _changes(texts: tuple[str, ...]) -> dict[str, Any]:
    """ENTRY=VALUE as TOML, so that types are those of a configuration file; a bare word is a string."""
    import tomllib

    changes: dict[str, Any] = {}
    for text in texts:
        try:
            changes |= tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            name, equals, value = text.partition("=")
            if not equals:
                raise UsageError(f"--set {text!r} is not ENTRY=VALUE") from None
            changes[name.strip()] = value.strip()
    return changes
