"""Keys depend on what is named, not on how: spellings, working directories, links, lists, several sources."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaqap_fast.errors import Status, UsageError
from metaqap_fast.input import lists, open_sources
from metaqap_fast.input.places import absolute, address_of, common, inside, key_of, one_name, url
from metaqap_fast.input.reading import read_bytes
from metaqap_fast.records import Stamp, key_order

FILES = ("1.jpg", "a/2.png", "a/b/3.webp", "c/4.jpg", "c/note.txt")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "photos"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    return folder


def keys(*sources: object, root: str | None = None) -> list[bytes]:
    source = open_sources([str(name) for name in sources], root)
    found = [entry.key for entry in source]
    assert found == sorted(set(found), key=key_order)  # in order, none twice
    return found


EVERY = [b"1.jpg", b"a/2.png", b"a/b/3.webp", b"c/4.jpg"]
EVERY_SORTED = sorted(EVERY, key=key_order)


@pytest.mark.parametrize(
    "spelling",
    [
        ["photos"],
        ["./photos/"],
        ["photos//"],
        ["{}"],
        ["{}/../photos/."],
        ["photos/a/../../photos"],
        ["link"],
        ["photos", "link/"],
        ["photos", "photos/a", "photos/1.jpg", "./photos/*/*.png"],
        ["photos/**/*.[jpw]*"],
        ["{}/1.jpg", "photos/a/2.png", "link/a/b/3.webp", "photos/c/4.jpg"],
        ["@list.txt"],
        ["@{}/../list.txt"],
        ["@absolute.txt", "link"],
    ],
)
def test_every_spelling_gives_the_same_keys(photos: Path, spelling: list[str]) -> None:
    images = [name for name in FILES if not name.endswith("txt")]
    (photos.parent / "list.txt").write_text("".join(f"./photos//{name}\n" for name in reversed(images)))
    (photos.parent / "absolute.txt").write_text("".join(f"{photos}/{name}\n" for name in images))
    source = open_sources([name.format(photos) for name in spelling])
    assert [entry.key for entry in source] == EVERY_SORTED
    assert source.root in (photos.as_uri(), (photos.parent / "link").as_uri())
    for entry in source:
        assert read_bytes(entry).data == entry.key  # each file holds its name


@pytest.mark.parametrize("working", [".", "photos", "photos/a", "/"])
def test_the_working_directory_does_not_matter(photos: Path, working: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(working)
    assert keys(os.path.relpath(photos)) == keys(photos) == EVERY_SORTED
    two = keys(os.path.relpath(photos / "a"), os.path.relpath(photos / "c"))
    assert two == EVERY_SORTED[1:]


def test_a_folder_that_is_renamed_keeps_its_keys(photos: Path) -> None:
    before = [(entry.key, entry.stamp()) for entry in open_sources(["photos"])]
    photos.rename("pictures")
    assert [(entry.key, entry.stamp()) for entry in open_sources(["pictures"])] == before


def test_keys_stay_when_sources_come_and_the_root_is_known(photos: Path, tmp_path: Path) -> None:
    source = open_sources(["photos/a"])
    assert (source.root, [e.key for e in source]) == ((photos / "a").as_uri(), [b"2.png", b"b/3.webp"])
    root = open_sources(["photos"]).root
    assert keys("photos/a", root=root) == [b"a/2.png", b"a/b/3.webp"]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "1.jpg").touch()
    more = os.fsencode(tmp_path / "more" / "1.jpg")
    assert keys("photos", "more", root=root) == sorted([*EVERY, more], key=key_order)
    assert keys("photos", "more/1.jpg", "photos/1.jpg", root=root) == sorted([*EVERY, more], key=key_order)
    assert keys("photos", "more") == [b"more/1.jpg", *(b"photos/" + key for key in EVERY_SORTED)]


def test_roots_are_absolute_urls(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "a list.txt").write_text("photos/1.jpg\n")
    source = open_sources(["./photos/", "photos/*/*.png", "@a list.txt"])
    here = tmp_path.as_uri()
    assert source.roots == [f"{here}/photos", f"{here}/photos/%2A/%2A.png", f"{here}/a%20list.txt"]
    assert address_of(source.root) == os.fsencode(photos)


def test_a_stamp_changes_with_the_file(photos: Path) -> None:
    (entry,) = open_sources(["photos/1.jpg"])
    first = entry.stamp()
    assert first and first.size == 5 and entry.stamp().code == first.code > 0
    os.utime(photos / "1.jpg", ns=(1, 1))
    assert entry.stamp() == Stamp(5, "1") != first and entry.stamp().code != first.code
    (photos / "1.jpg").unlink()
    assert entry.stamp() == Stamp() and not entry.stamp() and entry.stamp().code == 0


# --- what is left out ---------------------------------------------------------------------------------------


def test_what_systems_leave_behind_is_left_out_and_counted(tmp_path: Path) -> None:
    for name in (
        ".git/a.jpg", ".hidden/a.jpg", ".Trash-1000/files/a.jpg", ".Trashes/a.jpg", "$RECYCLE.BIN/a.jpg",
        "__MACOSX/a.jpg", "x/@eaDir/a.jpg/thumb.jpg", "x/._a.jpg", "x/a.jpg", "x/.a.jpg", "x/readme.md", ".jpg/b.jpg",
    ):  # fmt: skip
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).touch()
    source = open_sources([tmp_path / "all"])
    assert [entry.key for entry in source] == [b"x/.a.jpg", b"x/a.jpg"]
    assert source.left_out == {
        ".git": 1, "hidden folder": 2, "trash": 3, "__MACOSX": 1, "@eaDir": 1, "._ file": 1, "no image extension": 1
    }  # fmt: skip
    assert keys(tmp_path / "all/.git", tmp_path / "all/x/._a.jpg") == [b".git/a.jpg", b"x/._a.jpg"]  # named


@pytest.mark.parametrize("where", ["photos", "photos/a"])
@pytest.mark.parametrize("name", ["notes", "loop.jpg"])
def test_a_link_to_itself_hides_nothing(photos: Path, where: str, name: str) -> None:
    Path(where, name).symlink_to(name)
    found = {entry.key: entry for entry in open_sources(["photos"])}
    key = os.path.relpath(f"{where}/{name}", "photos").encode()
    assert set(found) == {*EVERY, key} - ({key} if name == "notes" else set())
    if name == "loop.jpg":
        error = read_bytes(found[key]).error
        assert error is not None and error.status == Status.unreadable and "symbolic links" in error.reason


def test_a_glob_that_matches_only_folders_names_them(photos: Path) -> None:
    assert keys("photos/*") == EVERY_SORTED  # a file and two folders, as a shell would name them
    (photos / "1.jpg").unlink()
    assert keys("photos/*") == [key for key in EVERY_SORTED if key != b"1.jpg"]
    with pytest.raises(UsageError, match=r"no file matches 'photos/\*\.gif'"):
        open_sources(["photos/*.gif"])


# --- lists --------------------------------------------------------------------------------------------------

LINES = {
    b"# a comment": [],
    b"#1.jpg": [b"#1.jpg"],  # there is such a file
    b" 1.jpg": [b"1.jpg"],
    b" 2.jpg": [b" 2.jpg"],  # there is such a file
    b"'it is.jpg'": [b"it is.jpg"],
    b'"1.jpg"': [b"1.jpg"],
    b'"': [b'"'],
    b"~/home.jpg": [b"home/home.jpg"],
    b"sub": [b"sub/s.jpg"],
    b"sub/": [b"sub/s.jpg"],
    b"missing.jpg": [b"missing.jpg"],
    b"caf\xe9.jpg": [b"caf\xe9.jpg"],
    b"  ": [],
    b"": [],
}


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_lines_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes, ending: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "sub").mkdir()
    for name in ("1.jpg", "#1.jpg", " 2.jpg", "sub/s.jpg", "sub/s.txt"):
        (tmp_path / name).touch()
    for line, expected in LINES.items():
        (tmp_path / "list.txt").write_bytes(start + line + ending + b"1.jpg" + ending)
        assert keys("@list.txt", root=tmp_path.as_uri()) == sorted({*expected, b"1.jpg"}, key=key_order), line
    (tmp_path / "list.txt").write_bytes(b"\0".join([b"#1.jpg", b" 1.jpg", b"'", b"a\nb.jpg", b""]))
    assert keys("@list.txt") == [b" 1.jpg", b"#1.jpg", b"'", b"a\nb.jpg"]  # names as they are


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "names no image"),
        (b"# only a comment\n", "names no image"),
        (b"a\nb\n" * 4 + b"c\0d\0", "end in newlines and names that end in NUL"),
        ("a.jpg\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, text: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "BLOCK", 8)  # bytes: the first holds no NUL
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(UsageError, match=message):
        open_sources([f"@{tmp_path}/list.txt"])


# --- the rule itself ----------------------------------------------------------------------------------------

name = st.text("ab.", min_size=1, max_size=3).filter(lambda text: text not in (".", ".."))
local = st.lists(name, min_size=1, max_size=4).map(lambda parts: "/".join(["", *parts]).encode())
remote = st.builds(lambda host, path: b"s3://" + host.encode() + path, name, local)


@given(st.lists(local, min_size=1, max_size=5) | st.lists(remote | local, min_size=1, max_size=5))
def test_the_root_holds_everything_and_no_folder_in_it_does(folders: list[bytes]) -> None:
    root = common(folders)
    if root is None:
        hosts = {folder.split(b"/")[2] if folder.startswith(b"s3:") else b"/" for folder in folders}
        assert len(hosts) > 1
        return
    assert all(inside(folder, root) for folder in folders)
    below = {key_of(folder, root).split(b"/")[0] for folder in folders}
    assert below == {b""} or len(below) > 1
    assert root == common(reversed(folders)) == common([*folders, root])


@given(st.lists(local, min_size=1, max_size=6), st.sampled_from([b"/a", b"", b"/a/b", b"s3://a", None]))
def test_keys_tell_addresses_apart_and_lead_back(addresses: list[bytes], root: bytes | None) -> None:
    found = {key_of(address, root) for address in addresses}
    assert len(found) == len(set(addresses))
    for address in addresses:
        key = key_of(address, root)
        if root is not None and inside(address, root):
            assert address == (root + b"/" + key if key else root)
        else:
            assert key == address


@given(local | remote)
def test_urls_lead_back(address: bytes) -> None:
    assert address_of(url(address)) == address.rstrip(b"/")


@given(st.lists(st.sampled_from(["a", "b", ".", "", "a/b"]), max_size=6))
def test_absolute_paths_say_each_part_once(parts: list[str]) -> None:
    path = absolute("/".join(parts).encode())
    assert path.startswith(b"/") and b"//" not in path and b"/./" not in path
    assert absolute(path) == path == absolute(path + b"/")


def test_folders_that_are_one(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "other").symlink_to("real")
    (tmp_path / "deep").symlink_to("real/sub")
    real, other, deep = (os.fsencode(tmp_path / each) for each in ("real", "other", "deep"))
    assert one_name([real, other, deep]) == {real: real, other: real, deep: real + b"/sub"}
    assert one_name([other, deep]) == {other: other, deep: other + b"/sub"}
    assert absolute(deep + b"/../x") == real + b"/x"


@pytest.fixture(autouse=True)
def _no_links_above(tmp_path: Path) -> Iterator[None]:
    assert os.path.realpath(tmp_path) == str(tmp_path)
    yield
