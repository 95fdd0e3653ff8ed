"""Label tables and splits, on miniatures laid out as the authors' archives are, with every trap they hold."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from scipy.io import savemat

from metaqap_fast.errors import UsageError
from metaqap_fast.train.datasets import DataSet, biq2021, load, match_files, split, splits
from metaqap_fast.train.features import decoded

KONIQ = Path(__file__).parents[1] / "data" / "koniq10k_distributions_sets.csv"  # 14 rows of the authors' table


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def make_biq2021(root: Path) -> Path:
    touch(root / "Images", "ss01 (1).jpg", "ss02 (1014).JPG", "ss03 (2).jpg")
    (root / "Train (Images and MOS).csv").write_text("Image Name,MOS,,\nss02 (1014).jpg,0.25,,\nss01 (1).jpg,1,,\n")
    (root / "Test (Images and MOS).csv").write_text("Image Name,MOS\nss03 (2).jpg,0.7\n\n")
    return root


def make_koniq10k(root: Path) -> Path:
    with open(KONIQ) as file:
        rows = list(csv.DictReader(file))
    touch(root / "1024x768", *(row["image_name"] for row in rows))
    (root / KONIQ.name).write_text(KONIQ.read_text())
    return root


def make_live(root: Path, count: int = 20) -> Path:
    """Names and MOS as MATLAB cells and rows; the first 7 are training images in a folder of their own."""
    names = [f"t{i}.bmp" for i in range(1, 8)] + [f"{i}.{'bmp' if i % 2 else 'JPG'}" for i in range(count)]
    mos = np.concatenate([np.full(7, 99.0), np.linspace(0, 90, count)])
    base = root / "ChallengeDB_release"
    touch(base / "Images" / "trainingImages", *names[:7])
    touch(base / "Images", *names[7:])
    touch(base / "Data")
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    savemat(base / "Data" / "AllImages_release.mat", {"AllImages_release": cells})
    savemat(base / "Data" / "AllMOS_release.mat", {"AllMOS_release": mos[None]})
    return root


def make_tid2013(root: Path) -> Path:
    """25 references x 2 types x 2 levels; the case of names in the table and on disk differs in places."""
    names = [f"I{ref:02}_{kind:02}_{level}.bmp" for ref in range(1, 26) for kind in (1, 24) for level in (1, 5)]
    touch(root / "distorted_images", "Thumbs.db", *(n.lower() if i % 3 else n for i, n in enumerate(names)))
    touch(root / "reference_images", "I01.BMP")
    lines = [f"{9 * i / (len(names) - 1):.5f} {n if i % 2 else n.lower()}" for i, n in enumerate(names)]
    (root / "mos_with_names.txt").write_text("\r\n".join(lines) + "\r\n")
    return root


def make_kadid10k(root: Path) -> Path:
    """81 references x 3; `dmos` is 1..5, higher better; the references lie among the images."""
    base = root / "kadid10k"
    names = [(f"I{ref:02}_01_{level:02}.png", f"I{ref:02}.png") for ref in range(1, 82) for level in (1, 3, 5)]
    touch(base / "images", *(name for pair in names for name in pair))
    lines = [f"{name},{ref},{5 - 4 * (i % 3) / 2},0.5" for i, (name, ref) in enumerate(names)]
    (base / "dmos.csv").write_text("dist_img,ref_img,dmos,var\n" + "\n".join(lines) + "\n")
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "biq2021": make_biq2021,
    "koniq10k": make_koniq10k,
    "live_challenge": make_live,
    "tid2013": make_tid2013,
    "kadid10k": make_kadid10k,
}


def make_csv(root: Path, rows: str, *images: str) -> Path:
    for image in images:
        touch((root / image).parent, (root / image).name)
    (root / "mos.csv").write_text("image_name,MOS\n" + rows)
    return root / "mos.csv"


def keys(data: DataSet, rows: np.ndarray) -> list[str]:
    return [data.keys[i] for i in rows]


@pytest.mark.parametrize("name", MAKERS)
def test_every_row_has_its_own_image(tmp_path: Path, name: str) -> None:
    data = load(name, MAKERS[name](tmp_path))
    assert len(data.files) == len(data.keys) == len(data.mos) == len(set(data.files))
    assert all(
        file.is_file() and file.name.lower() == key.lower() for file, key in zip(data.files, data.keys, strict=True)
    )
    assert data.mos.min() >= 0 and data.mos.max() <= 1 and np.ptp(data.mos) > 0.5


def test_biq2021(tmp_path: Path) -> None:
    data = load("biq2021", make_biq2021(tmp_path))
    train, validation, test = split(data)
    assert data.files[0].name == "ss02 (1014).JPG" and data.keys[0] == "ss02 (1014).jpg"
    assert keys(data, train) == ["ss02 (1014).jpg", "ss01 (1).jpg"] and keys(data, test) == ["ss03 (2).jpg"]
    assert validation is None and list(data.mos) == [0.25, 1.0, 0.7] and len(splits(data)) == 1
    assert biq2021(tmp_path, "test").labels == ["ss03 (2).jpg"] and list(biq2021(tmp_path, "train").mos) == [0.25, 1]


def test_an_mpo_file_is_an_image_like_any_other(tmp_path: Path, photo: Image.Image) -> None:
    make_biq2021(tmp_path)
    path = tmp_path / "Images" / "ss01 (1).jpg"
    photo.save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))], quality=95)
    assert Image.open(path).format == "MPO"
    (image,) = decoded([file for file in load("biq2021", tmp_path).files if file == path])
    assert image.views.shape == (1, 512, 512, 3)
    assert np.abs(image.views[0].astype(int) - np.asarray(photo)).mean() < 3


def test_a_key_in_both_halves_of_the_split(tmp_path: Path) -> None:
    make_biq2021(tmp_path)
    with open(tmp_path / "Test (Images and MOS).csv", "a") as file:
        file.write("ss01 (1).jpg,0.5\n")
    with pytest.raises(UsageError, match=r"Test.*'ss01 \(1\).jpg' stands in the training split too"):
        load("biq2021", tmp_path)


def test_koniq10k(tmp_path: Path) -> None:
    data = load("koniq10k", make_koniq10k(tmp_path))
    with open(KONIQ) as file:
        rows = list(csv.DictReader(file))
    assert data.keys == [row["image_name"] for row in rows]
    assert_allclose(data.mos, [(float(row["MOS"]) - 1) / 99 for row in rows])
    for part, name in zip(split(data), ("training", "validation", "test"), strict=True):
        assert part is not None and keys(data, part) == [r["image_name"] for r in rows if r["set"] == name]
        assert len(part) > 1
    with pytest.raises(UsageError, match="takes no seed"):
        split(data, 1)


def rewrite(table: Path, change: Callable[[int, dict[str, str]], object]) -> None:
    with open(table) as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        change(i, row)
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def votes_mean(row: dict[str, str]) -> str:
    """The MOS on the scale of 1..5, as koniq10k_scores_and_distributions.csv has it under the same name."""
    return str(sum(grade * float(row[f"c{grade}"]) for grade in range(1, 6)))


@pytest.mark.parametrize("rows", [range(14), [9]])
def test_koniq10k_on_the_other_scale_is_recognised(tmp_path: Path, rows: list[int]) -> None:
    make_koniq10k(tmp_path)
    rewrite(tmp_path / KONIQ.name, lambda i, row: i in rows and row.update(MOS=votes_mean(row)))
    with open(KONIQ) as file:
        name = list(csv.DictReader(file))[rows[0]]["image_name"]
    with pytest.raises(UsageError, match=rf"MOS of '{name}'.*scale of 1\.\.5.*MOS_zscore"):
        load("koniq10k", tmp_path)


def test_koniq10k_wants_the_table_with_the_split(tmp_path: Path) -> None:
    make_koniq10k(tmp_path)
    rewrite(tmp_path / KONIQ.name, lambda i, row: i == 3 and row.update(set="holdout"))
    with pytest.raises(UsageError, match="'holdout'"):
        load("koniq10k", tmp_path)
    (tmp_path / KONIQ.name).rename(tmp_path / "koniq10k_scores_and_distributions.csv")
    with pytest.raises(UsageError, match=r"koniq10k_distributions_sets.csv does not exist.*official split"):
        load("koniq10k", tmp_path)


def test_live_challenge_leaves_the_training_images_out(tmp_path: Path) -> None:
    data = load("live_challenge", make_live(tmp_path))
    assert data.keys == [f"{i}.{'bmp' if i % 2 else 'JPG'}" for i in range(20)]
    assert_allclose(data.mos, np.linspace(0, 0.9, 20))
    assert load("live_challenge", tmp_path / "ChallengeDB_release").keys == data.keys


def test_live_challenge_whose_table_lacks_the_seven_rows(tmp_path: Path) -> None:
    make_live(tmp_path)
    folder = tmp_path / "ChallengeDB_release" / "Data"
    cells = np.empty((20, 1), object)
    cells[:, 0] = [f"{i}.{'bmp' if i % 2 else 'JPG'}" for i in range(20)]
    savemat(folder / "AllImages_release.mat", {"AllImages_release": cells})
    savemat(folder / "AllMOS_release.mat", {"AllMOS_release": np.linspace(0, 90, 20)[None]})
    with pytest.raises(UsageError, match=r"7 images without a label in .*: '0.JPG'"):
        load("live_challenge", tmp_path)


def test_live_challenge_refuses(tmp_path: Path) -> None:
    mos = make_live(tmp_path) / "ChallengeDB_release" / "Data" / "AllMOS_release.mat"
    savemat(mos, {"AllMOS_release": np.full((1, 27), np.nan)})
    with pytest.raises(UsageError, match=r"row 8: the MOS of '0.JPG' is nan"):
        load("live_challenge", tmp_path)
    savemat(mos, {"AllMOS_release": np.ones((1, 26))})
    with pytest.raises(UsageError, match="27 image names and 26 MOS"):
        load("live_challenge", tmp_path)
    for content in (b"not MATLAB", b""):
        mos.write_bytes(content)
        with pytest.raises(UsageError, match=r"AllMOS_release.mat"):
            load("live_challenge", tmp_path)


def test_tid2013(tmp_path: Path) -> None:
    data = load("tid2013", make_tid2013(tmp_path))
    assert len(data.keys) == 100 and data.mos[0] == 0 and data.mos[-1] == 1
    assert data.reference is not None and data.reference[:5] == ["i01"] * 4 + ["i02"] and len(set(data.reference)) == 25
    (tmp_path / "mos_with_names.txt").write_text("5.5 i01_01_1.bmp\ni01_01_5.bmp\n")
    with pytest.raises(UsageError, match="line 2: no MOS and name"):
        load("tid2013", tmp_path)


def test_kadid10k_higher_is_better_and_references_have_no_label(tmp_path: Path) -> None:
    data = load("kadid10k", make_kadid10k(tmp_path))
    assert list(data.mos[:3]) == [1.0, 0.5, 0.0] and data.keys[0] == "I01_01_01.png"
    assert data.reference is not None and data.reference[2:4] == ["i01.png", "i02.png"]
    touch(tmp_path / "kadid10k" / "images", "I82.png")
    with pytest.raises(UsageError, match=r"'I82.png'"):
        load("kadid10k", tmp_path)


@pytest.mark.parametrize(("name", "held"), [("live_challenge", 4), ("tid2013", 20), ("kadid10k", 48)])
def test_ten_seeded_splits(tmp_path: Path, name: str, held: int) -> None:
    data = load(name, MAKERS[name](tmp_path))
    parts = splits(data)
    assert len(parts) == 10 and len({tuple(part.test) for part in parts}) == 10
    for seed, part in enumerate(parts):
        assert part.validation is None and len(part.test) == held
        assert sorted([*part.train, *part.test]) == list(range(len(data.keys)))
        assert np.array_equal(split(data, seed).test, part.test)
        if data.reference is not None:
            assert not {data.reference[i] for i in part.train} & {data.reference[i] for i in part.test}
    assert np.array_equal(split(data).test, parts[0].test)


def test_csv(tmp_path: Path) -> None:
    table = make_csv(tmp_path, "b/a.jpg,75\na.jpg,25\n", "a.jpg", "b/a.jpg", "b/notes.txt", "c/unused.jpg")
    data = load("csv", table, low=0, high=100)
    assert data.keys == ["b/a.jpg", "a.jpg"] and list(data.mos) == [0.75, 0.25]
    assert data.files == [tmp_path / "b" / "a.jpg", tmp_path / "a.jpg"] and len(splits(data)) == 10
    assert list(load("csv", table, low=100, high=0).mos) == [0.25, 0.75]  # a DMOS
    with pytest.raises(UsageError, match="--low and --high"):
        load("csv", table)
    with pytest.raises(UsageError, match="are for csv"):
        load("biq2021", make_biq2021(tmp_path), low=0, high=1)
    with pytest.raises(UsageError, match=r"'live'.*live_challenge"):
        load("live", tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.jpg,1\nb.jpg,2\nc.jpg,3\n", "1 label without an image in .*'c.jpg'"),
        ("a.jpg,1\n", "1 image without a label in .*: 'b.jpg'"),
        ("a.jpg,1\nb.jpg,5.01\n", r"MOS of 'b.jpg' is 5.01, outside 1\.\.5"),
        ("a.jpg,0.99\nb.jpg,5\n", r"MOS of 'a.jpg' is 0.99, outside 1\.\.5"),
        ("a.jpg,1\nb.jpg,2\na.jpg,1\n", "line 4: 'a.jpg' has two labels"),
        ("a.jpg,1\nb.jpg,2\nA.jpg,1\n", "'a.jpg' and 'A.jpg' are of one image"),
        ("a.jpg,1\nb.jpg,nan\n", "line 3: the MOS of 'b.jpg' is nan"),
        ("a.jpg,1\nb.jpg,inf\n", "line 3: the MOS of 'b.jpg' is inf"),
        ("a.jpg,1\nb.jpg,good\n", "line 3: the MOS of 'b.jpg' is 'good', not a number"),
        ("a.jpg,1\nb.jpg\n", "line 3: no name and number"),
        ("a.jpg,1\n,2\n", "line 3: no name"),
        ("", "table of csv is empty"),
    ],
)
def test_bad_labels(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load("csv", make_csv(tmp_path, rows, "a.jpg", "b.jpg"), low=1, high=5)


@pytest.mark.parametrize("name", MAKERS)
def test_an_image_that_is_gone_or_too_many(tmp_path: Path, name: str) -> None:
    data = load(name, MAKERS[name](tmp_path))
    extra = data.files[0].with_name("zz.jpg")
    extra.touch()
    with pytest.raises(UsageError, match=r"1 image without a label in .*'zz.jpg'"):
        load(name, tmp_path)
    extra.unlink()
    data.files[1].unlink()
    with pytest.raises(UsageError, match="1 label without an image"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_where_a_set_should_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="does not exist: give the folder"):
        load(name, tmp_path)


def test_names_that_differ_in_case_only(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "A.jpg")
    assert [path.name for path in match_files(tmp_path, ["A.jpg", "a.jpg"])] == ["A.jpg", "a.jpg"]
    with pytest.raises(UsageError, match=r"1 label without an image in .*'a.JPG'"):  # which of the two?
        match_files(tmp_path, ["a.JPG"])
