"""Many machines, by Ray: the source is cut into pieces of work, and what a worker has scored comes back as parts.

The driver lists the folders, hands out pieces (files, or an archive that the worker lists itself) and owns the output:
a part arrives as the bytes of a file and is committed like one that was written here, so that a run may be resumed in
any way, on a cluster or not. Which worker does what, and what is done again when one is lost, is Ray's business.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from metaqap_fast import __version__
from metaqap_fast.errors import MetaqapError, UsageError
from metaqap_fast.input import Source
from metaqap_fast.input.chosen import Part
from metaqap_fast.input.distant import Item
from metaqap_fast.input.files import Listing
from metaqap_fast.model import bundle
from metaqap_fast.options import MODEL, ROWS_PER_PART, OutputMode, Shard
from metaqap_fast.run import attributes_of, finish
from metaqap_fast.scale.actor import Choose, Work, look, seen
from metaqap_fast.scale.connect import connected, translated
from metaqap_fast.scale.pieces import Piece, pieces
from metaqap_fast.scale.ray import pool, worker_resources, workers
from metaqap_fast.scale.share import share_of
from metaqap_fast.scores.claim import Claim
from metaqap_fast.scores.durable import sync_folder
from metaqap_fast.scores.parts import cannot_write
from metaqap_fast.scores.store import Store
from metaqap_fast.streams import counted
from metaqap_fast.summary import Summary


def run_cluster(
    address: str,
    source: Listing,
    choose: Choose,
    output: str | os.PathLike[str] | Claim,
    mode: OutputMode,
    options: Mapping[str, Any],
    on_row: Callable[[Summary], None] = lambda _: None,
    on_start: Callable[[Mapping[str, Any]], None] = lambda _: None,
    rows_per_part: int = ROWS_PER_PART,
    retry_failed: bool = False,
    prune: bool = False,
    moved: bool = False,
    shard: Shard | None = None,
    summary: Summary | None = None,
) -> Summary:
    """Score a source with Ray into one file.

    Args:
        address: of a cluster, `auto` for the one that this machine belongs to, `local` for one of this machine alone,
            which is started and ended.
        source, choose: what is scored: those entries of a listing that `choose` leaves in a source.
        output, mode, rows_per_part, retry_failed, prune, moved, shard, summary: as in `run`.
        options: of `Scorer`.
        on_row: called every now and then.
        on_start: called with what `about` says of a worker's scorer.

    Raises:
        UsageError: see `Store`; a worker that does not see the source, or that would give other scores.
        MetaqapError: no cluster; a worker cannot score. What is committed stays.
    """
    claim = output if isinstance(output, Claim) else Claim(output, mode)
    summary = summary or Summary(os.fspath(claim.output))
    with claim:
        items = [item for item in source.items() if not shard or share_of(item.key, shard.count) == shard.index]
        if not items and not shard:
            raise UsageError(f"no image found in {', '.join(source.sources)}")
        with connected(address) as ray:
            resources = worker_resources()
            size = workers(resources)
            first = _first_look(ray, resources, options, items[:1] + items[-1:])
            on_start({**first["about"], "device": f"{first['about']['device']}, {counted(size, 'Ray worker')}"})
            summary.about = first["description"]
            store = Store(claim, attributes_of(first["description"], source, shard), mode, rows_per_part, moved=moved)
            try:
                summary.resumed(store.done, store.totals)
                where = {"number": store.number, "rows_per_part": rows_per_part}
                arguments = {
                    "options": options, "attributes": store.attributes, "tables": source.options, "choose": choose,
                    "done": ray.put(store.done), "where": where, "retry_failed": retry_failed,
                }  # fmt: skip
                told = _Told(source)
                for message in _messages(ray, pieces(items, size), arguments, size, resources):
                    if not _kept(store, message):
                        continue
                    heard = json.loads(message["told"])
                    told.left_out.update(heard.get("left_out", {}))
                    store.done.named[heard.get("named", [])] = True
                    summary.add(heard)
                    on_row(summary)
                told.left_out.update(source.left_out)
                finish(store, summary, told, prune)
            finally:
                store.close()
    return summary


class _Told(Part):
    """The source as the workers have listed it."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._left_out: Counter[str] = Counter()

    @property
    def left_out(self) -> Counter[str]:
        """See `Source.left_out`."""
        return self._left_out


def _first_look(
    ray: Any, resources: Mapping[str, float], options: Mapping[str, Any], items: Sequence[Item]
) -> dict[str, Any]:
    """What a worker says of itself, if it can do the work."""
    with translated():
        found: dict[str, Any] = ray.get(ray.remote(max_calls=1, **resources)(look).remote(options, items))
    if found["version"] != __version__:
        raise MetaqapError(
            f"worker {found['node']} has metaqap-fast {found['version']}, this machine {__version__}: install the same"
        )
    ours = bundle.load(options.get("model", MODEL)).digest
    if found["description"]["bundle_digest"] != ours:
        raise MetaqapError(f"worker {found['node']} has another model under that name: copy the bundle to all machines")
    for item, there in zip(items, found["seen"], strict=True):
        if there != seen(item):
            raise UsageError(
                f"worker {found['node']} does not see {os.fsdecode(item.key)} as this machine does: name a source by a "
                "path that all machines share, or by a URL"
            )
    return found


def _messages(
    ray: Any, work: Sequence[Piece], arguments: Mapping[str, Any], size: int, resources: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """What the workers send, in any order."""
    if not work:
        return
    with translated():
        data = ray.data.from_items([{"piece": piece} for piece in work], override_num_blocks=len(work))
        sent = data.map_batches(
            Work,
            fn_constructor_kwargs=dict(arguments),
            batch_size=None,
            compute=pool(min(size, len(work))),
            **resources,
        )
        for batch in sent.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from batch.to_pylist()


def _kept(store: Store, message: Mapping[str, Any]) -> bool:
    """Commit the part of a message; False if it is there already, made by a worker that was then lost."""
    if not message["name"]:
        return True
    part = store.parts / message["name"]
    if part.exists():
        return False
    partial = store.parts / "writing-ray.tmp"
    try:
        with open(partial, "wb") as file:
            file.write(message["part"])
            file.flush()
            os.fsync(file.fileno())
        partial.rename(part)
        sync_folder(store.parts)
    except OSError as error:
        raise cannot_write(store.parts, store.parts, error) from None
    store.adopt(part)
    return True
