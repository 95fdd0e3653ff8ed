"""The examples that join other programs, each with the real package, give the scores of the command line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from command import run
from metaqap_fast.scores.table import ScoreTable

BRIDGES = Path(__file__).parents[2] / "examples" / "bridges"
pytestmark = pytest.mark.full


def bridge(name: str, package: str) -> ModuleType:
    """An example as a module; the test is skipped, and says so, where its package is not installed."""
    pytest.importorskip(package, reason=f"NOT TESTED HERE: {package} is missing (pip install 'metaqap-fast[bridges]')")
    spec = importlib.util.spec_from_file_location(name, BRIDGES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(photo: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bridges") / "photos"
    (root / "b").mkdir(parents=True)
    for i in range(4):
        photo.crop((60 * i, 0, 60 * i + 96, 80)).save(root / ("b" if i % 2 else "") / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def scores(folder: Path, bundle: Path) -> dict[str, float]:
    """By path."""
    out = folder.parent / "s.h5"
    assert run("score", folder, "--model", bundle, "-o", out, "--precision", "fp32").returncode == 0
    table = ScoreTable.read(out)
    return dict(zip(table.paths, table.score.tolist(), strict=True))


@pytest.fixture(scope="module")
def options(bundle: Path) -> dict[str, str]:
    return {"model": str(bundle), "precision": "fp32"}


def test_hugging_face(folder: Path, scores: dict[str, float], options: dict[str, str]) -> None:
    example = bridge("huggingface", "datasets")
    images = {"image": [str(folder / path) for path in scores], "name": list(scores)}
    dataset = example.Dataset.from_dict(images).cast_column("image", example.Image())
    found = example.add_scores(dataset, **options)
    assert dict(zip(found["name"], found["score"], strict=True)) == scores and set(found["status"]) == {"ok"}
    assert found[0]["image"].size == (96, 80)


def test_daft(folder: Path, scores: dict[str, float], options: dict[str, str]) -> None:
    example = bridge("daft_udf", "daft")
    images = {"name": [*scores, "none"], "image": [*((folder / path).read_bytes() for path in scores), b"no image"]}
    frame = example.daft.from_pydict(images)
    found = frame.with_column("score", example.Quality(**options).score(example.daft.col("image"))).to_pydict()
    assert dict(zip(found["name"], found["score"], strict=True)) == {**scores, "none": None}


def test_nemo_curator(folder: Path, scores: dict[str, float], options: dict[str, str]) -> None:
    example = bridge("nemo_curator_stage", "nemo_curator")
    from nemo_curator.tasks.image import ImageObject

    images = [ImageObject(image_id=path, image_data=np.asarray(Image.open(folder / path))) for path in scores]
    stage = example.QualityStage(options=options)
    stage.setup()
    done = stage.process(example.ImageBatch(dataset_name="test", data=images))
    assert {image.image_id: image.metadata["quality"] for image in done.data} == scores
    limit = float(np.median(list(scores.values())))
    stage = example.QualityStage(limit, options)
    stage.setup()
    kept = stage.process(example.ImageBatch(dataset_name="test", data=images)).data
    assert {image.image_id for image in kept} == {path for path, score in scores.items() if score >= limit}


def test_spark(folder: Path, scores: dict[str, float], options: dict[str, str]) -> None:
    example = bridge("spark", "pyspark")
    code = f"""
import functools, os, sys
os.environ["PYSPARK_PYTHON"] = sys.executable
sys.path.insert(0, {str(BRIDGES)!r})
os.environ["PYTHONPATH"] = {str(BRIDGES)!r} + os.pathsep + os.environ.get("PYTHONPATH", "")
from pyspark.sql import SparkSession
import spark as example
session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
files = session.read.format("binaryFile").option("recursiveFileLookup", "true").load({str(folder)!r})
def score(batches):
    import functools, metaqap_fast, spark
    spark.scorer = functools.cache(functools.partial(metaqap_fast.Scorer, **{options!r}))
    return spark.score(batches)
for row in files.mapInPandas(score, schema=example.SCHEMA).collect():
    print("FOUND", row.path, repr(float(row.score)), row.status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=folder)
    if "JAVA_HOME" in done.stderr or "JAVA_GATEWAY" in done.stderr:
        pytest.skip("NOT TESTED HERE: Java is missing")
    assert done.returncode == 0, done.stderr[-2000:]
    found = [line.split() for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert {str(Path(path.removeprefix("file:")).relative_to(folder)): float(s) for _, path, s, _ in found} == scores
    assert example.SCHEMA.startswith("path string")


def test_duckdb(folder: Path, scores: dict[str, float]) -> None:
    example = bridge("duckdb_query", "duckdb")
    assert run("export", folder.parent / "s.h5", folder.parent / "s.parquet").returncode == 0
    found = example.duckdb.execute(example.WORST, [str(folder.parent / "s.parquet")]).fetchall()
    assert {path: score for _, path, score in found} == scores and [row[0] for row in found] == ["", "", "b", "b"]
    command = [sys.executable, str(example.__file__), str(folder.parent / "s.parquet")]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0 and "b/3.png" in shown.stdout


def test_fiftyone(folder: Path, scores: dict[str, float], monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "db"))
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    example = bridge("fiftyone_fields", "fiftyone")
    try:
        dataset = example.fiftyone.Dataset()
    except Exception as error:  # noqa: BLE001 -- its database does not start
        pytest.skip(f"NOT TESTED HERE: FiftyOne's database does not start: {error}")
    dataset.add_samples([example.fiftyone.Sample(filepath=str(folder / path)) for path in scores])
    example.add_fields(dataset, str(folder.parent / "s.h5"), str(folder))
    found = {str(Path(sample.filepath).relative_to(folder)): sample["quality"] for sample in dataset}
    assert found == scores
