"""Members of archives: which are rows, their keys and bytes; archives that are damaged, hostile or lie."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from archives import FILES, JPEG, KINDS, as_tar, as_zip, rows, written
from metaqap_fast.input import inflate, open_sources
from metaqap_fast.input.reading import read_all


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_what_was_put_in(name: str, tmp_path: Path) -> None:
    assert rows(written(tmp_path / name, KINDS[name](FILES))) == FILES


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_which_members_are_rows(name: str, tmp_path: Path) -> None:
    files = {
        "1.jpg": b"no image, but named as one", "1.json": b"{}", "1.txt": b"BM is what a caption begins with",
        "1.cls": b"7", "1.npy": b"\x93NUMPY",
        "2": JPEG + b"no suffix", "3.img": b"\x89PNG\r\n\x1a\n", "4.bin": b"GIF89a\1\0\1\0\0",
        "5.pgm.txt": b"P2 3 3 255 0 1 2", "6.PNG": b"", "7.json": b"", "e/": b"", "._8.jpg": JPEG,
        "__MACOSX/1.jpg": JPEG, "x/.git/9.jpg": JPEG, "./y/9.jpg": JPEG,
    }  # fmt: skip
    path = written(tmp_path / name, KINDS[name](files))
    assert set(rows(path)) == {"1.jpg", "2", "3.img", "4.bin", "6.PNG", "y/9.jpg"}
    source = open_sources([path])
    list(source)
    assert source.left_out == {"member that is not an image": 6, "._ file": 1, "__MACOSX": 1, ".git": 1}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_are_text_and_told_apart(name: str, tmp_path: Path) -> None:
    names = ["../../up.jpg", "/etc/passwd.jpg", "a.jpg", "a.jpg", "a.jpg#2", "a.jpg", "caf\xe9.jpg", "n" * 300 + ".jpg"]
    content = {place: JPEG + b"%d" % place for place in range(len(names))}
    out = io.BytesIO()
    if name == "a.zip":
        with zipfile.ZipFile(out, "w") as archive:
            for place, member in enumerate(names):
                archive.writestr(member, content[place])
    else:
        with tarfile.open(fileobj=out, mode="w:gz" if name.endswith("gz") else "w") as tar:
            for place, member in enumerate(names):
                info = tarfile.TarInfo(member)
                info.size = len(content[place])
                tar.addfile(info, io.BytesIO(content[place]))
    (tmp_path / "in").mkdir()
    path = written(tmp_path / "in" / name, out.getvalue())
    source = open_sources([path])
    found = {entry.key.removeprefix(path.name.encode() + b"/"): entry.read(1 << 20, 1 << 20) for entry in source}
    keys = [*names[:3], "a.jpg#2", "a.jpg#2#2", "a.jpg#3", *names[6:]]
    assert found == {key.encode(): content[place] for place, key in enumerate(keys)}
    assert [each.name for each in tmp_path.rglob("*")] == ["in", name]  # nothing was written


def test_links_and_devices_in_a_tar_are_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("x.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    source = open_sources([tmp_path / "a.tar"])
    assert not list(source)
    assert source.left_out == {"link in an archive": 2, "special member of an archive": 1}


def test_archives_in_a_folder_stand_where_folders_would(tmp_path: Path) -> None:
    for name in ("b/c.tar", "a.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, KINDS["a.tar" if "tar" in name else "a.zip"]({"1.jpg": JPEG}))
    (tmp_path / "b" / "0.jpg").write_bytes(JPEG)
    expected = [b"a.zip/1.jpg", b"b/0.jpg", b"b/c.tar/1.jpg"]
    assert [entry.key for entry in open_sources([tmp_path])] == expected
    assert [entry.key for entry in open_sources([tmp_path, tmp_path / "b/c.tar", f"{tmp_path}/*.zip"])] == expected
    (tmp_path / "list").write_text(f"{tmp_path}/b/c.tar\n{tmp_path}/a.zip\n")
    assert [entry.key for entry in open_sources([f"@{tmp_path}/list"])] == [expected[0], expected[2]]


def test_braces(tmp_path: Path) -> None:
    for i in range(9, 12):
        written(tmp_path / f"{i:03d}.tar", as_tar({"1.jpg": JPEG}))
    expected = [b"009.tar/1.jpg", b"010.tar/1.jpg", b"011.tar/1.jpg"]
    for name in ("{009..011}.tar", "{009,01{0,1}}.tar", "0{09,10,11}.tar", "0{11..09}.tar"):
        assert [entry.key for entry in open_sources([f"{tmp_path}/{name}"])] == expected, name
    written(tmp_path / "{1..2}.jpg", JPEG)  # a file of that name is meant
    assert [entry.key for entry in open_sources([f"{tmp_path}/{{1..2}}.jpg"])] == [b"{1..2}.jpg"]


# --- damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip", "stored.zip"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_what_is_cut_short_gives_rows_as_far_as_it_goes(name: str, part: float, tmp_path: Path) -> None:
    content = KINDS[name](FILES)
    found = rows(written(tmp_path / name, content[: int(len(content) * part)]))
    why = found.pop("")
    assert isinstance(why, str) and ("cut short" in why or "ended before" in why)
    sound = {key for key, value in found.items() if value == FILES[key]}
    broken = {key: value for key, value in found.items() if key not in sound}
    assert len(broken) <= 1 and all("ends within it" in str(value) for value in broken.values())
    assert len(sound) >= part * 60 * 0.8 - 8


def test_a_tar_without_an_end_says_so(tmp_path: Path) -> None:
    content = as_tar({"1.jpg": JPEG * 200})
    found = rows(written(tmp_path / "a.tar", content[:1536]))
    assert found == {"1.jpg": JPEG * 200, "": "tar: cut short: it has no end at byte 1536"}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.xz", "a.zip", "a.parquet", "a.arrow"])
@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(100), np.random.default_rng(0).bytes(70_000)])
def test_what_is_no_archive_is_one_row(name: str, content: bytes, tmp_path: Path) -> None:
    found = rows(written(tmp_path / name, content))
    assert list(found) == [""] and isinstance(found[""], str) and "\n" not in found[""]


def test_a_damaged_header_costs_its_member(tmp_path: Path) -> None:
    content = bytearray(as_tar(FILES))
    place = content.index(b"1/010.jpg")
    content[place + 3] ^= 1
    found = rows(written(tmp_path / "a.tar", bytes(content)))
    assert found.pop("") == f"tar: no tar header at byte {place}"
    assert found == {name: data for name, data in FILES.items() if name != "1/010.jpg"}


def test_a_tar_that_changes_after_it_was_listed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", as_tar(FILES))
    entries = list(open_sources([path]))
    path.write_bytes(as_tar({"z.jpg": JPEG * 5, **FILES}))
    assert {each.error.reason for each in read_all(entries) if each.error} == {
        "the archive has changed since it was listed"
    }
    path.unlink()
    assert all("No such file" in str(each.error) for each in read_all(entries))


def test_a_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "MOST", 8 << 20)
    bomb = gzip.compress(as_tar({"1.jpg": JPEG, "2.jpg": bytes(16 << 20), "3.jpg": JPEG}))
    found = rows(written(tmp_path / "a.tar.gz", bomb), max_bytes=1 << 20)
    assert found.pop("") == "tar.gz: decompressed, it grows to more than 200 times its size: the rest is not read"
    assert found == {"1.jpg": JPEG, "2.jpg": "16777216 bytes, over the limit of 1048576"}


def lying(content: bytes, field: int, value: int, local: bool = True) -> bytes:
    """A zip of one member with another number in its headers."""
    changed = bytearray(content)
    struct.pack_into("<I", changed, content.index(b"PK\1\2") + 4 + field, value)
    if local:
        struct.pack_into("<I", changed, 2 + field, value)
    return bytes(changed)


CRC, PACKED, SIZE = 12, 16, 20


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (SIZE, 10, "more than the 10 bytes"),
        (SIZE, 5000, "4000 instead of the 5000 bytes"),
        (SIZE, 0xFFFFFFF0, "over the limit"),
        (PACKED, 10, "instead of the 4000 bytes"),
        (PACKED, 0x7FFFFFFF, "over the limit"),
        (CRC, 1, "its checksum is not the one in the archive"),
        (38, 70, "a place without a member"),  # its offset
        (38, 70_000, "a place without a member"),
    ],
)
def test_a_zip_that_lies(field: int, value: int, why: str, tmp_path: Path) -> None:
    content = lying(as_zip({"1.jpg": JPEG * 1000}), field, value, local=field < 38)
    found = rows(written(tmp_path / "a.zip", content), max_bytes=1 << 20)
    assert why in str(found["1.jpg"])


def test_encrypted_and_unknown_methods(tmp_path: Path) -> None:
    content = bytearray(as_zip({"1.jpg": JPEG}))
    for flags, method, why in ((1, 0, "encrypted"), (0, 9, "zip method 9")):
        struct.pack_into("<2H", content, content.index(b"PK\1\2") + 8, flags, method)
        assert why in str(rows(written(tmp_path / "a.zip", bytes(content)))["1.jpg"])


@pytest.mark.full
def test_more_than_64k_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        for i in range(65_600):
            archive.writestr(f"{i}.jpg", b"")
    assert sum(1 for _ in open_sources([tmp_path / "a.zip"])) == 65_600


@pytest.mark.full
@pytest.mark.parametrize("name", KINDS)
def test_damage_anywhere_raises_nothing(name: str, tmp_path: Path) -> None:
    content, rng = KINDS[name]({name: FILES[name] for name in list(FILES)[:12]}), np.random.default_rng(0)
    path = tmp_path / name
    for trial in range(150):
        damaged = bytearray(content)
        for _ in range(1 + trial % 4):
            start = int(rng.integers(len(damaged)))
            damaged[start : start + 1 + trial % 9] = rng.bytes(1 + trial % 9)
        if trial % 5 == 0:
            del damaged[int(rng.integers(len(damaged))) :]
        path.write_bytes(damaged)
        rows(path, max_bytes=1 << 20)
