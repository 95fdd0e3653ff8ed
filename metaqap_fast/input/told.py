"""Entries as plain values, so that another process on this machine can read them."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from metaqap_fast.errors import UsageError
from metaqap_fast.input.data import Data, LocalData
from metaqap_fast.input.distant import RemoteFile
from metaqap_fast.input.fetch import file_system
from metaqap_fast.input.folders import File
from metaqap_fast.input.members import Broken, Member
from metaqap_fast.input.zipped import ZipMember
from metaqap_fast.records import Entry


def told(entry: Entry) -> list[Any]:
    """An entry as a list that JSON can hold.

    Raises:
        UsageError: it lies in something that has to be read in order, by one process.
    """
    key = os.fsdecode(entry.key)
    if isinstance(entry, File):
        return ["file", key, os.fsdecode(entry.path)]
    if isinstance(entry, Broken):
        return ["broken", key, entry.reason]
    if isinstance(entry, RemoteFile):
        return ["remote", key, entry.files.unstrip_protocol(entry.path), entry.size, entry.version]
    if isinstance(entry, Member) and isinstance(entry.data, LocalData):
        return ["member", key, *_local(entry.data), entry.offset, entry.size]
    if isinstance(entry, ZipMember) and isinstance(entry.data, LocalData):
        e = entry
        return ["zip", key, *_local(entry.data), e.offset, e.before, e.packed, e.size, e.crc, e.method, e.encrypted]
    raise UsageError(
        f"{key} is in a source that one process has to read in order: start a run with --shard on each device"
    )


def heard(values: list[Any]) -> Entry:
    """The entry that `told` made these values of."""
    kind, name, *rest = values
    key = os.fsencode(name)
    if kind == "file":
        return File(key, os.fsencode(rest[0]))
    if kind == "broken":
        return Broken(key, rest[0])
    if kind == "remote":
        return RemoteFile(key, *file_system(rest[0]), *rest[1:])
    data = _data(*rest[:3])
    return Member(key, data, *rest[3:]) if kind == "member" else ZipMember(key, data, *rest[3:])


def _local(data: LocalData) -> tuple[str, int, int]:
    return os.fsdecode(data.path), data.size, data.version


@lru_cache(64)
def _data(path: str, size: int, version: int) -> Data:
    return LocalData(os.fsencode(path), (size, version))
