"""The `train` commands: options in, calls of `metaqap_fast.train` out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from metaqap_fast.errors import MetaqapError, UsageError

_PATH = click.Path(path_type=Path)
_DATA = click.option("--data", required=True, help="biq2021, koniq10k, live_challenge, tid2013, kadid10k or csv.")
_ROOT = click.argument("root", type=click.Path(exists=True, path_type=Path))
_WORK = click.option(
    "--work", default="work", show_default=True, type=_PATH, help="Caches and runs; goes on from them."
)
_DEVICE = click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda:N")
_NETWORKS = click.option(
    "--networks", metavar="A,B,...", help="Configurations or .toml files; NAME@RUN starts from a pretraining run."
)
_SEED = click.option("--seed", type=int, help="Of the random split, for sets without an official one.")
_LOW = click.option("--low", type=float, help="MOS of the worst image that a csv's scale allows.")
_HIGH = click.option("--high", type=float, help="MOS of the best one.")


@click.group()
def train() -> None:
    """Turn labelled images into model bundles (needs the train extra)."""
    try:
        import metaqap_fast.train.run  # noqa: F401
    except ImportError as error:
        raise MetaqapError(f"training needs more packages: pip install 'metaqap-fast[train]' ({error})") from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


@train.command()
@click.argument("photographs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=_PATH, help="Folder of the runs, one for each network.")
@_NETWORKS
@_DEVICE
@click.option("--steps", type=click.IntRange(min=1), help="Batches of 16 crops.  [default: 3000]")
@click.option("--all-metrics", is_flag=True, help="Labels from all ten metrics, not the five quicker ones.")
def pretrain(
    photographs: Path, output: Path, networks: str | None, device: str, steps: int | None, all_metrics: bool
) -> None:
    """Pretrain networks on synthetic distortions of pristine PHOTOGRAPHS (a folder)."""
    from dataclasses import replace

    from metaqap_fast.input.files import Listing
    from metaqap_fast.train.networks import read_config
    from metaqap_fast.train.pretrain import Pretraining
    from metaqap_fast.train.pretrain import pretrain as run
    from metaqap_fast.train.run import find_device

    settings = replace(Pretraining(), fast_labels=not all_metrics, **({"steps": steps} if steps else {}))
    files = sorted(Path(photographs.joinpath(entry.path.decode())) for entry in Listing([str(photographs)]))
    for config in [read_config(name) for name in _names(networks)]:
        click.echo(run(output / config.name, config, files, settings, find_device(device)))


@train.command()
@_ROOT
@_DATA
@click.option("-o", "--output", required=True, type=_PATH, help="Folder for the bundle.")
@_WORK
@_NETWORKS
@_DEVICE
@click.option(
    "--budget",
    type=click.Choice(["auto", "frozen", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="frozen: ridge heads on frozen networks; cpu: later stages trained; gpu: everything, all folds.",
)
@_SEED
@_LOW
@_HIGH
@click.option("--name", "bundle_name", help="The bundle's name.")
@click.option("--set", "changes", multiple=True, metavar="ENTRY=VALUE", help="Change an entry of every recipe.")
def run(root: Path, output: Path, networks: str | None, changes: tuple[str, ...], data: str, **options: Any) -> None:
    """Fine-tune networks on the labelled images in ROOT, combine them, write a bundle."""
    from metaqap_fast.train.run import run as train_all

    train_all(data, root, output, networks=_names(networks), **options, **_changes(changes))


@train.command()
@_ROOT
@_DATA
@click.option("-o", "--output", required=True, type=_PATH, help="Folder for the table, as .md and .json.")
@_WORK
@click.option(
    "--network", default="mobilenetv2", show_default=True, help="That pretraining and losses are compared on."
)
@_NETWORKS
@click.option("--pretraining", type=_PATH, help="Run of the network's pretraining.")
@_DEVICE
@_SEED
@_LOW
@_HIGH
@click.option("--test", is_flag=True, help="Also score the test split, once, at the very end.")
@click.option("--set", "changes", multiple=True, metavar="ENTRY=VALUE", help="Change an entry of every recipe.")
def ablation(root: Path, networks: str | None, changes: tuple[str, ...], **options: Any) -> None:
    """Measure what pretraining, loss and meta-learner bring."""
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
