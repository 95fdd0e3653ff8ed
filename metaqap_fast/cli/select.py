"""`metaqap-fast select`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from metaqap_fast.cli import shared
from metaqap_fast.options import BURST_DISTANCE, DISTANCE, LABELS

if TYPE_CHECKING:
    from metaqap_fast.review.chosen import Chosen

DOING = ("print0", "csv", "copy", "link", "move", "xmp")  # at most one of them


@click.command(short_help="Choose images: list, copy, move or label them.")
@click.argument("scores", type=click.Path(), metavar="SCORES.h5")
@click.option(
    "--worst", type=shared.SomeImages(), help="The N worst images, or the worst P % of all that have a score."
)
@click.option("--best", type=shared.SomeImages(), help="The N best, or the best P %.")
@click.option("--below", type=shared.Real(0, 1), metavar="X", help="Images with a score under X, 0 to 1.")
@click.option("--above", type=shared.Real(0, 1), metavar="X", help="Images with a score over X, 0 to 1.")
@click.option(
    "--status", default="", metavar="S", help="Images with this status, such as corrupt. failed: all without a score."
)
@click.option(
    "--reason",
    default="",
    metavar="R",
    help="Images whose worst fault is R, such as noise, if the model gives reasons.",
)
@click.option(
    "--duplicates",
    is_flag=True,
    help="Images that look like another one with a higher score: copies and bursts. Of equals the first stays.",
)
@click.option(
    "--distance",
    type=click.IntRange(0, 11),
    metavar="BITS",
    help="With --duplicates: in how many bits the hashes of two images may differ. 0: nearly identical images.  "
    f"[default: {DISTANCE}, or {BURST_DISTANCE} with --within]",
)
@click.option(
    "--within",
    type=shared.Real(min=0),
    metavar="SECONDS",
    help="With --duplicates: only images taken at most this long after another, as in bursts. Needs `score --exif`.",
)
@click.option(
    "--sure",
    type=shared.Real(0, 1),
    default=0,
    metavar="P",
    help="With --duplicates: only images of which the other is better with at least this probability, such as 0.9.",
)
@click.option("--by", type=click.Choice(["folder"]), help="folder: apply --worst or --best to each folder.")
@click.option("-0", "--print0", is_flag=True, help="End each path with a zero byte, for xargs -0.")
@click.option("--csv", is_flag=True, help="Print all columns as csv, not only paths.")
@click.option("--copy", metavar="DIR", help="Copy them to DIR, into the same subfolders.")
@click.option("--link", metavar="DIR", help="Make symbolic links to them in DIR.")
@click.option("--move", metavar="DIR", help="Move them to DIR. A script written there moves them back.")
@click.option(
    "--xmp",
    is_flag=True,
    help="Write --rating and --label into XMP sidecar files, for photo programs. Other entries are kept.",
)
@click.option("--rating", type=click.IntRange(-1, 5), metavar="N", help="With --xmp: -1 (rejected) to 5.")
@click.option(
    "--label", help="With --xmp: a colour label.  [default: Red with --worst or --below, Green with --best or --above]"
)
@click.option("--replace", is_flag=True, help="With --xmp: replace ratings and labels that are there already.")
@click.option(
    "--sidecars",
    type=click.Choice(["full", "stem"]),
    default="full",
    show_default=True,
    help="With --xmp: names of new sidecars. full: a.jpg.xmp (digiKam, darktable); stem: a.xmp (Lightroom).",
)
@click.option("--images", metavar="ROOT", help="Where the scored folder is now, if it was moved.")
@click.option("--plan", is_flag=True, help="Only show what would be done.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
def select(scores: str, by: str | None, **given: Any) -> None:
    """Choose images of a score file: print their paths, or copy, link, move or label them.

    Conditions are combined: an image must meet all of them. Percentages are of the scored images of the file, or of
    each folder with --by folder.

    \b
    metaqap-fast select scores.h5 --worst 1%
    metaqap-fast select scores.h5 --worst 1% --move rejects
    metaqap-fast select scores.h5 --status failed --csv > failed.csv

    Exit status: 0 done; 1 some images could not be used, for example because they no longer exist; a line says which.
    """
    from metaqap_fast.review.chosen import Chosen
    from metaqap_fast.review.groups import Alike
    from metaqap_fast.review.select import Choice
    from metaqap_fast.streams import counted

    _check(given)
    alike = None
    if given["duplicates"]:
        usual = DISTANCE if given["within"] is None else BURST_DISTANCE
        distance = usual if given["distance"] is None else given["distance"]
        alike = Alike(distance, given["within"], given["sure"])
    conditions = {name: given[name] for name in ("worst", "best", "below", "above", "status", "reason")}
    choice = Choice(**conditions, by_folder=by == "folder", duplicates=alike)
    found = Chosen(scores, choice, given["images"])
    how = next((name for name in ("copy", "link", "move") if given[name] is not None), None)
    if how:
        _transfer(found, how, given[how], given["plan"], given["yes"])  # type: ignore[arg-type]
    elif given["xmp"]:
        _label(found, given)
    else:
        for text in found.csv() if given["csv"] else found.paths(b"\0" if given["print0"] else b"\n"):
            sys.stdout.buffer.write(text)
        if found.broken and not given["print0"]:
            _say(f"{counted(found.broken, 'path')} with a newline: give --print0 to have each path whole")
        click.echo(found.summary(), err=True)


def _check(given: dict[str, Any]) -> None:
    doing = [name for name in DOING if given[name]]
    if len(doing) > 1:
        raise click.UsageError(f"--{doing[0]} and --{doing[1]} cannot be given together")
    if not given["xmp"]:
        for name in ("rating", "label", "replace"):
            if given[name]:
                raise click.UsageError(f"--{name} goes with --xmp")
    if not given["duplicates"]:
        for name in ("distance", "within", "sure"):
            if given[name]:
                raise click.UsageError(f"--{name} goes with --duplicates")
    if not set(doing) & {"copy", "link", "move", "xmp"}:
        for name in ("plan", "yes"):
            if given[name]:
                raise click.UsageError(f"--{name} goes with --copy, --link, --move or --xmp")


def _transfer(found: Chosen, how: Literal["copy", "link", "move"], folder: str, only_plan: bool, yes: bool) -> None:
    from metaqap_fast.review.transfer import carry_out, plan
    from metaqap_fast.signals import as_exceptions
    from metaqap_fast.streams import counted, shown

    kept = found.better() if how == "move" else {}
    planned = plan(found.tables(), found.images, how, folder, kept)
    _say(found.summary(), *planned.left_out.lines())
    count = counted(planned.images, "image")
    if planned.pairs and _agreed(planned.lines(), f"{how.capitalize()} {count} to {shown(folder)}?", only_plan, yes):
        with as_exceptions():
            carry_out(planned, lambda undo: _say(f"sh {undo} would move them back"))
        _say(f"{ {'copy': 'Copied', 'link': 'Linked', 'move': 'Moved'}[how] } {count} to {shown(folder)}")
    sys.exit(1 if planned.left_out.counts else 0)


def _label(found: Chosen, given: dict[str, Any]) -> None:
    from metaqap_fast.review.xmp import planned, write
    from metaqap_fast.signals import as_exceptions
    from metaqap_fast.streams import counted

    label = given["label"]
    if label is None and given["rating"] is None:
        label = LABELS.get(found.choice.for_worse, "")
    plan = planned(found.tables(), found.images, given["rating"], label or "", given["replace"], given["sidecars"])
    _say(found.summary(), *plan.left_out.lines())
    if plan.kept:
        _say(f"{counted(plan.kept, 'image')} with a rating or label of its own: it stays; --replace puts ours there")
    count = counted(len(plan.paths), "sidecar")
    if not plan.paths and not plan.kept and not plan.left_out.counts:
        _say("nothing to do: the labels are there already")
    if plan.paths and _agreed(plan.lines(), f"Write {count}?", given["plan"], given["yes"]):
        with as_exceptions():
            write(plan)
        _say(f"Wrote {count}")
    sys.exit(1 if plan.left_out.counts else 0)


def _agreed(lines: list[str], question: str, only_plan: bool, yes: bool) -> bool:
    """Whether to go on: after showing what would be done, all of it or the first lines."""
    from metaqap_fast.errors import UsageError
    from metaqap_fast.streams import shown

    if only_plan:
        click.echo("\n".join(map(shown, lines)))
        return False
    if yes:
        return True
    _say(*lines[:SHOWN], *([f"... and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []))
    if not sys.stdin.isatty():
        raise UsageError("nothing was done: give --yes to do it without a question, or --plan to see all of it")
    return click.confirm(question, err=True)


SHOWN = 10  # lines of a plan


def _say(*lines: str) -> None:
    from metaqap_fast.streams import shown

    for line in lines:
        click.echo(shown(line), err=True)
