"""The table of rated sets: what is read from checkouts, what is missing, and how contents are divided."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from metaqap_fast.bench import public_sets
from metaqap_fast.bench.public_layouts import SCREEN, Picture, bradley_terry
from metaqap_fast.bench.public_sets import RECIPES, Recipe, build
from metaqap_fast.errors import UsageError
from metaqap_fast.train.sets import FAMILIES, OPINIONS, read_sets


def picture(path: Path, level: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), (level, level, level)).save(path)


def table(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def recipe(name: str) -> Recipe:
    return next(each for each in RECIPES if each.name == name)


def test_recipes_are_entries_that_a_table_may_have() -> None:
    names = [each.name for each in RECIPES]
    assert len(set(names)) == len(names)
    for each in RECIPES:
        assert each.family in FAMILIES and each.opinions in OPINIONS and each.licence and each.recipe
        assert each.ends[0] < each.ends[1] and each.repository.count("/") == 1


def stills(root: Path) -> None:
    rows = ["image_name,mos,ci,std"]
    for film in ("ant", "bee", "cat", "dog", "elk"):
        for lines in (144, 320, 1600):
            name = f"{film}.mkv_1frame_crf_05_height_{lines:04d}"
            picture(root / f"test_1/images/{name}.png")
            rows.append(f"{name},{1 + lines / 400},0.1,0.2")
    rows.append("fox.mkv_1frame_crf_05_height_0144,1,0.1,0.2")  # whose picture is not there
    table(root / "test_1/mos_ci.csv", *rows)


def test_stills_are_enlarged_and_their_films_divided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stills(tmp_path / "checkouts/image_quality_test")
    sets = read_sets(build(tmp_path / "checkouts", tmp_path / "sets", [recipe("stills")]))
    assert capsys.readouterr().out == "stills: 15 pictures, 1 not in the checkout\n"
    parts = {one.part: one for one in sets}
    assert set(parts) == {"untouched", "validation"} and parts["validation"].name == "stills, validation"
    films = {part: set(one.data.reference or ()) for part, one in parts.items()}
    assert not films["untouched"] & films["validation"] and len(films["untouched"] | films["validation"]) == 5
    assert all(public_sets.for_choosing(film) == (part == "validation") for part in films for film in films[part])
    one = parts["untouched"]
    assert one.group is not None and set(one.group) == {"under 300 lines", "300 to 599 lines", "600 lines and more"}
    assert Image.open(one.data.files[0]).size == (SCREEN * 16 // 12, SCREEN)
    assert one.data.mos[0] == pytest.approx(144 / 400 / 4)


def opinions_of_views(root: Path) -> None:
    rows = np.empty((2, 2), object)
    for place, (folder, name) in enumerate((("Synthesized", "hole.bmp"), ("Original", "cam.bmp"))):
        picture(root / "data" / folder / name)
        rows[place] = [np.array([name]), np.array([[2.0 + place]])]
    savemat(root / "MOS.mat", {"IRCCyNIVCDIBRImagesDatabaseACRScore": rows})


def web_pages(root: Path) -> None:
    inside = root / "rating-based-dataset"
    picture(inside / "images/english/4.png")
    picture(inside / "images/foreign/5.png")
    table(inside / "preprocess/train_means_list.csv", "image,mean_score", "/english_resized/4.png,2.5")
    table(inside / "preprocess/test_list.csv", "image,mean_score", "/foreign_resized/5.png,4.5")


def scans(root: Path) -> None:
    word = '"a;b";' + ";".join(["0"] * 11) + "; {}; {}; 1;2;3;4; 1;  a; 0.5;"
    for name in ("1_1_02_4", "1_1_02_5", "0_0_02_1"):  # the second sample of a type; a series that does not count
        picture(root / f"dataset/{name[:3]}/IMA/{name}.jpg")
        table(root / f"dataset/{name[:3]}/CSV/{name}.csv", word.format(0.5, 1), word.format(0.9, 3), "")


def underwater(root: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    for row in (["image_id", "MOS"], [1, 40.5], [12, 60], [13, 70]):
        book.active.append(row)
    picture(root / "300-1/x1.jpg")
    picture(root / "300-2/x12.jpg")
    book.save(root / "MOS.xlsx")


def upscaled(root: Path) -> None:
    picture(root / "Ant/Ant_Bicubic_x2.jpg")
    picture(root / "Ant/result_c_x4.jpg")
    picture(root / "reference/Ant.jpg")
    table(root / "MOS.csv", "Ant_Bicubic_x2.jpg,0.85,4.4", "result_c_x4.jpg,0.2,2", "gone_x8.jpg,0.1,1")


def beside(root: Path) -> None:
    picture(root / "images/own/p01.png")
    picture(root / "images/glide/p01.png")
    table(root / "evaluation_quality_appeal/quality.csv", "image_key,rating,std,prompt", "own/p01,4,1,p01",
          "glide/p01,2,1,p01")  # fmt: skip


def under_jpeg(root: Path) -> None:
    for place, folder in enumerate(("Original images", "Compressed images/imp1", "Compressed images/imp2")):
        picture(root / folder / "ant.jpeg", 90 + place)
    table(root / "mos.csv", "name,original,imp1,imp2", "ant,4,2.5,1")


@pytest.mark.parametrize(
    ("name", "make", "wanted"),
    [
        ("synthesised views", opinions_of_views, [("data/Synthesized/hole.bmp", 2), ("data/Original/cam.bmp", 3)]),
        ("web pages", web_pages, [("english/4.png", 2.5), ("foreign/5.png", 4.5)]),
        ("scans", scans, [("IMA/1_1_02_4.jpg", 0.8)]),
        ("underwater", underwater, [("300-1/x1.jpg", 40.5), ("300-2/x12.jpg", 60)]),
        ("upscaled", upscaled, [("Ant/Ant_Bicubic_x2.jpg", 4.4), ("Ant/result_c_x4.jpg", 2)]),
        ("rated beside generated pictures", beside, [("own/p01.png", 4)]),
        ("generated", beside, [("glide/p01.png", 2)]),
        (
            "photographs under JPEG",
            under_jpeg,
            [("Original images/ant.jpeg", 4), ("imp1/ant.jpeg", 2.5), ("imp2/ant.jpeg", 1)],
        ),
    ],
)
def test_opinions_find_their_pictures(
    name: str, make: Callable[[Path], None], wanted: list[tuple[str, float]], tmp_path: Path
) -> None:
    one = recipe(name)
    root = tmp_path / one.repository.split("/")[1]
    root.mkdir()
    make(root)
    found = [each for each in one.pictures(root) if each.file.is_file()]
    assert [(str(each.file)[-len(end) :], each.mos) for each, (end, _) in zip(found, wanted, strict=True)] == wanted
    low, high = one.ends
    if name != "upscaled":  # of which one content is in one part
        sets = read_sets(build(tmp_path, tmp_path / "sets", [one]))
        assert [each.part for each in sets] == ["untouched"]
        mos = [(mos - low) / (high - low) for _, mos in wanted]
        assert sorted(sets[0].data.mos) == pytest.approx(sorted(mos))


def test_groups_of_what_is_upscaled(tmp_path: Path) -> None:
    upscaled(tmp_path)
    assert [each.group for each in recipe("upscaled").pictures(tmp_path)][:2] == [
        "enlarged 2 times",
        "enlarged 4 times",
    ]


def test_pairs_give_shares(tmp_path: Path) -> None:
    """The first picture is chosen against both others, and the second mostly against the third."""
    for name in ("00002_original", "00002_HiFiC_lo", "00002_ArNet_hi"):
        picture(tmp_path / f"images/{name}.png")
    table(
        tmp_path / "results/jdg.csv",
        "\ufeffPair,Image_A,Model_A,Quality_A,Image_B,Model_B,Quality_B,0,1,2,3",
        "0,2,original,,2,HiFiC,lo,0,0,0,0",
        "1,2,ArNet,hi,2,original,,1,1,1,1",
        "2,2,ArNet,hi,2,HiFiC,lo,1,1,1,0",
    )
    found = {each.file.stem: each for each in recipe("learned codecs and restoration").pictures(tmp_path)}
    order = [found[name].mos for name in ("00002_original", "00002_HiFiC_lo", "00002_ArNet_hi")]
    assert 1 > order[0] > order[1] > order[2] > 0
    assert all(each.file.is_file() and each.content == "00002" for each in found.values())


def test_strengths_are_those_that_pairs_were_drawn_from() -> None:
    truth, rng = np.array([0.0, 0.8, -0.8, 1.6]), np.random.default_rng(0)
    names = list("abcd")
    won: dict[tuple[str, str], int] = {}
    for i in range(4):
        for j in range(i):
            ahead = int(rng.binomial(20_000, 1 / (1 + np.exp(truth[j] - truth[i]))))
            won[names[i], names[j]], won[names[j], names[i]] = ahead, 20_000 - ahead
    found = bradley_terry(names, won)
    assert found - found.mean() == pytest.approx(truth - truth.mean(), abs=0.05)


def test_what_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def one(root: Path) -> Iterator[Picture]:
        yield Picture(root / "a.png", 2)

    there, gone = (Recipe(name, f"x/{name}", FAMILIES[0], "CC0", "made up", (1, 5), one) for name in ("there", "gone"))
    picture(tmp_path / "checkouts/there/a.png")
    build(tmp_path / "checkouts", tmp_path / "sets", [there, gone])
    said = capsys.readouterr().out
    assert "there: 1 picture\n" in said and "gone: left out, there is no" in said and "github.com/x/gone" in said
    with open(tmp_path / "sets/there/mos.csv", newline="") as file:
        assert list(csv.reader(file)) == [["image_name", "mos"], ["a.png", "2"]]
    with pytest.raises(UsageError, match="checkout of none of these"):
        build(tmp_path, tmp_path / "other", [gone])


def test_opinions_that_are_a_picture_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(recipe("photographs under JPEG").pictures(tmp_path)) == []
    assert "mos-table.png: write" in capsys.readouterr().out
