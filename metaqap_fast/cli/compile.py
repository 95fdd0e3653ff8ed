"""`metaqap-fast compile`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click


@click.command("compile", short_help="Build engines for a GPU ahead of the first run.")
@click.argument("model", default="default")
@click.option(
    "--engine",
    type=click.Choice(["tensorrt", "tensorrt_rtx", "openvino"]),
    default=None,
    help="Library to build with.  [default: the TensorRT that is installed]",
)
@click.option(
    "--precision",
    "precisions",
    default="fp16",
    show_default=True,
    metavar="P[,P...]",
    help="Precisions to build: one or more of fp32, bf16, fp16, int8 and fp8.",
)
@click.option(
    "--target",
    default="",
    metavar="SM[,SM...]",
    help="GPU architectures to build for, such as sm89. Only TensorRT-RTX can build for GPUs that this machine does "
    "not have.  [default: the GPU of this machine]",
)
@click.option(
    "--portable",
    is_flag=True,
    help="Build one engine for all GPUs from sm80 on. The lean runtime runs it on machines without TensorRT.",
)
@click.option(
    "--layout",
    type=click.Choice(["merged", "members"]),
    default="merged",
    show_default=True,
    help="merged: one engine for all networks of the model; members: one engine for each network.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 1024),
    default=64,
    show_default=True,
    metavar="N",
    help="Number of views that the engine computes at once.",
)
@click.option("--device", default="auto", show_default=True, metavar="auto|cuda:N", help="GPU to build for.")
@click.option(
    "--photos",
    type=click.Path(exists=True, path_type=Path),
    help="Photographs on which to measure how far the precision moves scores.  [default: generated images]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write the engines to. Set METAQAP_FAST_CACHE to it to use them.  [default: the cache]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the engines' metadata as JSON on standard output.")
def compile_command(model: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Build the engines of MODEL for a GPU ahead of the first run, and measure how far their precision moves scores."""
    from metaqap_fast.engine.prebuild import compile_model

    if output is not None:
        os.environ["METAQAP_FAST_CACHE"] = str(output.resolve())
    documents = compile_model(model, say=lambda text: click.echo(text, err=True), **options)
    if as_json:
        click.echo(json.dumps(documents, indent=1))
