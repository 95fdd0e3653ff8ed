"""The command line: options in, exit status out; the work is elsewhere.

Exit status: 0 done (failed images are rows), 3 more images failed than --strict or --max-failed allows, 5 none could be
scored, 2 usage, 1 could not complete, 4 a GPU's decoder gave wrong pixels, 130, 143 or 129 interrupted (SIGINT,
SIGTERM, SIGHUP) with everything scored so far committed.

What cannot be written to standard error is dropped and stops nothing. Results that cannot be written to standard
output are status 1, with a line on standard error; files that were made stay.
"""

from __future__ import annotations

import io
import sys
from typing import Any, NoReturn

import click

from metaqap_fast import __version__, signals, streams
from metaqap_fast.cli.bench import bench
from metaqap_fast.cli.compare import compare
from metaqap_fast.cli.compile import compile_command
from metaqap_fast.cli.evaluate import evaluate
from metaqap_fast.cli.explain import explain
from metaqap_fast.cli.export import export
from metaqap_fast.cli.inspect import inspect
from metaqap_fast.cli.merge import merge
from metaqap_fast.cli.report import report
from metaqap_fast.cli.score import score
from metaqap_fast.cli.select import select
from metaqap_fast.cli.train import train
from metaqap_fast.errors import MetaqapError
from metaqap_fast.gpu_errors import GpuLost


class _Group(click.Group):
    """Ends in an exit status, and what goes wrong is one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(self.commands)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the command line and exit."""
        streams.guard()
        own = None if args or extra.get("args") is not None else sys.argv[1:]  # None where Python calls this
        try:
            try:
                status = super().main(*args, **{**extra, "standalone_mode": False, "obj": own})
            finally:
                sys.stdout.flush()
        except click.ClickException as error:
            message = io.StringIO()
            error.show(message)
            click.echo(streams.shown(message.getvalue(), keep="\n\t"), nl=False, err=True)
            status = error.exit_code
        except click.Abort:  # Ctrl-C
            status = signals.exit_status(KeyboardInterrupt())
        except MetaqapError as error:
            _say(str(error))
            status = error.exit_code
            if isinstance(error, GpuLost):  # its libraries may abort or hang where the interpreter takes them down
                signals.leave(status)
        except OSError as error:
            _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            status = 1
        sys.exit(status)


def _say(text: str) -> None:
    click.echo(f"metaqap-fast: {streams.shown(text)}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="metaqap-fast")
def main() -> None:
    """No-reference image quality scores for whole data sets."""


for _command in (
    score,
    explain,
    select,
    report,
    compare,
    merge,
    evaluate,
    export,
    inspect,
    compile_command,
    train,
    bench,
):
    main.add_command(_command)
