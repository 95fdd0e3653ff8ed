"""The command line: options in, exit status out; the work is elsewhere.

Exit status: 0 done (failed images are rows), 3 with --strict when any image failed, 2 usage, 1 could not
complete, 130 or 143 interrupted with everything scored so far committed.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from metaqap_fast import __version__
from metaqap_fast.cli.bench import bench
from metaqap_fast.cli.compile import compile_command
from metaqap_fast.cli.evaluate import evaluate
from metaqap_fast.cli.export import export
from metaqap_fast.cli.inspect import inspect
from metaqap_fast.cli.score import score
from metaqap_fast.cli.train import train
from metaqap_fast.errors import MetaqapError


class _Group(click.Group):
    """Turns the program's own errors into one line and their exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MetaqapError as error:
            click.echo(f"metaqap-fast: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head`: not an error
            ctx.exit(0)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="metaqap-fast")
def main() -> None:
    """No-reference image quality scores for whole data sets."""


for _command in (score, evaluate, export, inspect, compile_command, train, bench):
    main.add_command(_command)
