"""The table for strangers: sets by family, with intervals and coverage, beside what installs in a minute."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from metaqap_fast.bench import accuracy, families, peers
from metaqap_fast.bench import baselines as baselines_module
from metaqap_fast.bench.baselines import NoWeights, available, baselines, bytes_per_pixel, laplacian_variance, measured
from metaqap_fast.bench.job import prepare
from metaqap_fast.bench.runs import read
from metaqap_fast.errors import UsageError

FLAT = np.full((32, 32, 3), 90, np.uint8)


def test_baselines_are_higher_for_what_is_better(photo: Image.Image, tmp_path: Path) -> None:
    sharp = np.asarray(photo.crop((0, 0, 256, 256)))
    soft = np.asarray(photo.crop((0, 0, 256, 256)).resize((64, 64)).resize((256, 256)))
    assert laplacian_variance(sharp, 1) > 3 * laplacian_variance(soft, 1) and laplacian_variance(FLAT, 1) == 0
    assert bytes_per_pixel(FLAT, 2048) == 2
    Image.fromarray(sharp).save(tmp_path / "a.png")
    found = measured(tmp_path / "a.png", baselines(["laplacian", "bytes"]))
    assert found["bytes"] == (tmp_path / "a.png").stat().st_size / 256**2 and found["laplacian"] > 0
    with pytest.raises(UsageError, match="unknown baseline 'niqe': one of brisque, piqe"):
        baselines(["niqe"])


def test_cleanvision_is_measured_as_it_measures_itself(photo: Image.Image, tmp_path: Path) -> None:
    """Its parts have other defaults than `Imagelab` gives them."""
    cleanvision = pytest.importorskip("cleanvision")
    for i, side in enumerate((256, 64, 8)):
        photo.crop((0, 0, 256, 256)).resize((side, side)).resize((256, 256)).save(tmp_path / f"{i}.png")
    files = sorted(map(str, tmp_path.glob("*.png")))
    lab = cleanvision.Imagelab(filepaths=files)
    lab.find_issues({"blurry": {}, "dark": {}, "light": {}}, n_jobs=1)
    for issue in ("blurry", "dark", "light"):
        measure = baselines_module.cleanvision(issue)
        ours = [measure(np.asarray(Image.open(file)), 0) for file in files]
        assert ours == pytest.approx(lab.issues[f"{issue}_score"][files].tolist()), issue
    assert baselines(["cleanvision"])["cleanvision"](np.asarray(Image.open(files[0])), 0) > 0.3


class Pyiqa(ModuleType):
    """Stands in for IQA-PyTorch, whose licence keeps it out of the tests' environment."""

    DEFAULT_CONFIGS: ClassVar = {"niqe": {"metric_mode": "NR"}, "ssim": {"metric_mode": "FR"}}

    @staticmethod
    def create_metric(name: str, device: object, pretrained: bool = True, **_: object) -> Any:
        if pretrained:
            raise OSError("no network")

        class Metric:
            lower_better = True

            def __call__(self, tensor: Any) -> Any:
                return tensor.mean()

        return Metric()


def test_a_measure_of_pyiqa(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("pyiqa", "pyiqa.default_model_configs"):
        monkeypatch.setitem(sys.modules, name, Pyiqa(name))
    with pytest.raises(UsageError, match="no measure 'ssim' that needs no reference"):
        baselines(["pyiqa:ssim"])
    with pytest.raises(NoWeights, match=r"pyiqa:niqe: its weights cannot be downloaded \(no network\)"):
        baselines(["pyiqa:niqe"])
    said: list[str] = []
    assert list(available(["bytes", "pyiqa:niqe"], said.append)) == ["bytes"] and "left out: pyiqa:niqe" in said[0]
    Image.fromarray(FLAT).save(tmp_path / "a.png")
    work = prepare("peer.measure", {"measure": "pyiqa:niqe", "sources": [str(tmp_path)], "count": 1})
    assert work.run() == 1 and "cannot be downloaded" in work.facts["weights"]
    assert peers.title("pyiqa:niqe", work.facts) == "IQA-PyTorch, niqe, untrained"
    assert baselines_module.pyiqa("niqe", pretrained=False)(FLAT, 0) == pytest.approx(-90 / 255)
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(UsageError, match="IQA-PyTorch, niqe is not installed: pip install 'pyiqa'"):
        baselines(["pyiqa:niqe"])


@pytest.mark.full
@pytest.mark.parametrize("name", ["brisque", "piqe"])
def test_packaged_baselines_prefer_a_sharp_photograph(photo: Image.Image, name: str) -> None:
    pytest.importorskip({"brisque": "brisque", "piqe": "pypiqe"}[name])
    measure = baselines([name])[name]
    sharp = photo.crop((0, 0, 256, 256))
    soft = sharp.resize((64, 64)).resize((256, 256))
    assert measure(np.asarray(sharp), 1) > measure(np.asarray(soft), 1)


def test_sets_of_a_table_end_to_end(
    bundle: Path, photo: Image.Image, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["image,mos,content,group"]
    for i in range(6):
        photo.crop((60 * i, 0, 60 * i + 64, 64)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{i},crop,{'left' if i < 5 else 'right'}")
    (tmp_path / "mos.csv").write_text("\n".join(rows))
    (tmp_path / "sets.toml").write_text(
        "[[set]]\nname = 'crops'\nfamily = 'other'\npart = 'untouched'\ndata = 'csv'\nroot = 'mos.csv'\n"
        "low = 0\nhigh = 10\nlicence = 'CC0'\nrecipe = 'crops of a photograph'\n"
    )
    monkeypatch.setattr(accuracy, "METRIC_DRAWS", 5)
    table = ["--sets", tmp_path / "sets.toml", "--baselines", "laplacian,bytes", "--precisions", "fp32"]
    table += ["--baseline-images", 5]
    result = cli("bench", "accuracy", *table, "--model", bundle, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    samples = read(tmp_path / "run").samples
    assert [sample["case"] for sample in samples].count("stranger") == 6
    assert [set(sample) >= {"laplacian", "bytes"} for sample in samples if sample["case"] == "baseline"] == [True] * 5
    for text in ("Sets by family", "crops", "untouched", "Laplacian variance", "bytes a pixel", "crops: left", "CC0"):
        assert text in result.stdout, text
    assert str(tmp_path) not in (tmp_path / "run/run.json").read_text()


def scored(name: str, opinions: str, parts: bool) -> list[dict[str, Any]]:
    """20 images of two contents, the second of which is ranked the wrong way round."""
    return [
        {"case": "stranger", "set": name, "name": str(i), "family": "other", "part": "untouched", "licence": "CC0",
         "opinions": opinions, "mos": i / 20, "score": (i if i < 10 else 29 - i) / 20, "uncertainty": 0.01,
         "content": ("a", "b")[i // 10] if parts else None, "group": ("one", "two")[i // 10] if parts else None}
        for i in range(20)
    ]  # fmt: skip


def test_groups_contents_and_what_ranks_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "METRIC_DRAWS", 50)
    rows = scored("s", "scale", True) + scored("t", "pairs", False)
    measured = [
        {"case": "baseline", "set": "s", "name": str(i), "mos": i / 20, "brisque": i, "piqe": -i, "bytes": None}
        for i in range(5, 20)
    ]
    section = families.strangers(rows, measured)
    lines = [dict(zip(section.columns, row, strict=True)) for row in section.rows]
    assert [line["set"] for line in lines] == ["s", "s: one", "s: two", "t"]
    first, one, two, other = lines
    assert one["SROCC"].value == pytest.approx(1) and two["SROCC"].value == pytest.approx(-1)
    assert first["SROCC within a content"].value == pytest.approx(0) and other["SROCC within a content"] == ""
    assert first["inside the 95 % interval"].value == pytest.approx(0.5) and other["inside the 95 % interval"] == ""
    assert first["images"] == 20 and first["images of other measures"] == 15 and one["images of other measures"] == 5
    assert first["BRISQUE"] == pytest.approx(1) and first["SROCC there"] < 0.5
    assert first["bytes a pixel"] == "under 5 images"
    assert first["ranked better by"].startswith("BRISQUE by ") and "PIQE" not in first["ranked better by"]
    assert one["ranked better by"] == other["ranked better by"] == "none"
    assert "BRISQUE by 2.00 [2.00, 2.00]" in two["ranked better by"]
    alone = families.strangers(rows, [])
    assert "ranked better by" not in alone.columns and len(alone.rows) == 4
