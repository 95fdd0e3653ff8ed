"""The acceptance run, as far as a CPU can tell: it must not report success for what failed or did not run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_driver import fake_driver
from metaqap_fast.bench import gpu_acceptance, gpu_measure, gpu_steps
from metaqap_fast.bench.gpu_acceptance import last_object, measure, run_step
from metaqap_fast.bench.gpu_measure import Settings, decode_rate
from metaqap_fast.bench.gpu_promises import LIMITS, Step, checks, contacts, exit_status, plan, ran, table
from metaqap_fast.decode import DecodeOptions
from metaqap_fast.engine.cuda import Gpu
from metaqap_fast.engine.deviation import TOLERANCE
from metaqap_fast.engine.gpu import torch_engine
from metaqap_fast.errors import ImageError, Status
from metaqap_fast.model import bundle as bundles
from metaqap_fast.records import Decoded

pytestmark = pytest.mark.full

COMMAND = [sys.executable, "-P", "-m", "metaqap_fast.bench.gpu_acceptance"]


def test_a_dry_run_ends_in_a_table(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process; a step's own process is started in the tests of failures and of the wheels."""

    def here(step: Step, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
        result = gpu_steps.STEPS[step.name](Settings(**settings), *step.arguments)
        return {"seconds": 0.0, "result": json.loads(json.dumps(result))}

    monkeypatch.setattr(gpu_acceptance, "run_step", here)
    out = tmp_path / "results"
    steps = "cpu_scores,parity torch fp32,places,speed torch fp16,eager"
    arguments = ["--dry-run", "-o", str(out), "--model", str(bundle), "--images", "8", "--seconds", "0.05"]
    assert gpu_acceptance.main([*arguments, "--minutes", "30", "--steps", steps]) == 0
    document = json.loads((out / "gpu-acceptance-dry-run.json").read_text())
    assert document["dry_run"] and document["machine"].startswith("dry run on a CPU")
    failed = {title: step for title, step in document["steps"].items() if "failed" in step}
    assert not failed
    parity = document["steps"]["parity torch fp32"]["result"]
    assert parity["max"] < 1e-4 and parity["generated, cpu decoder"]["differ"] == 0
    verdicts = {entry["check"]: entry["verdict"] for entry in document["checks"]}
    assert verdicts["parity torch fp32: score against the CPU's"] == "passed"
    assert verdicts["parity torch fp32: images that fail only here or only there"] == "passed"
    assert verdicts["places torch fp32: scores of one view over all places"] == "not judged"
    assert document["steps"]["places torch fp32"]["result"] == {"predictions": 6, "distinct": 1}
    assert verdicts["first torch: a tiny network's predictions against its pixels' means"] == "passed"
    assert verdicts["speed torch fp16: whole over slowest stage"] == "not judged"
    assert document["steps"]["speed torch fp16"]["result"]["whole"] > 0
    text = (out / "gpu-acceptance-dry-run.txt").read_text()
    assert "says nothing about a GPU" in text and text in capsys.readouterr().out


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "-o", str(tmp_path)], capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_on_a_gpu_where_nothing_runs_the_outcome_is_failure(bundle: Path, tmp_path: Path) -> None:
    """A driver that shows a GPU on which no library runs: every step fails, and so does the whole."""
    driver = fake_driver(tmp_path / "driver")
    command = [*COMMAND, "-o", str(tmp_path), "--model", str(bundle), "--images", "2", "--minutes", "30"]
    done = subprocess.run([*command, "--engines", "torch"], capture_output=True, text=True, env=driver, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    document = json.loads((tmp_path / "gpu-acceptance-nvidia-h100-80gb-hbm3.json").read_text())
    assert document["gpu"]["capability"] == 90
    verdicts = {entry["check"].partition(":")[0]: entry["verdict"] for entry in document["checks"]}
    assert verdicts == dict.fromkeys(("first_decoder", "first torch", "an engine runs on this machine"), "failed")
    assert set(document["steps"]) == {"environment", "first_decoder", "first torch"}  # nothing follows from nothing
    assert document["steps"]["first torch"]["stderr"]


def test_an_engine_that_is_not_made_for_the_gpu_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaqap_fast.engine.gpu.tensorrt_build.find", lambda kind: None)
    found, others = gpu_acceptance.candidates(("tensorrt", "tensorrt_rtx", "torch"), 90)
    assert found == ["tensorrt", "torch"] and "does not build for sm90" in others["engine tensorrt_rtx"]["failed"]
    assert gpu_acceptance.candidates(("tensorrt_rtx", "torch"), 89)[0] == ["tensorrt_rtx", "torch"]


def test_the_plan_covers_every_promise() -> None:
    titles = [step.title for step in [*contacts(("tensorrt", "torch")), *plan(("tensorrt", "torch"))]]
    assert len(set(titles)) == len(titles)
    for title in ("first tensorrt", "first torch", "first_decoder", "parity tensorrt fp32", "parity torch fp32",
                  "parity tensorrt int8", "parity tensorrt fp8", "parity tensorrt fp16 members", "places tensorrt fp32",
                  "speed tensorrt fp16", "eager", "paper torch", "paper tensorrt", "memory tensorrt fp16",
                  "sweep_decoder"):  # fmt: skip
        assert title in titles
    assert titles.index("speed tensorrt fp16") < 12  # what matters most comes before time runs out


def test_no_precision_is_held_to_more_than_is_said_of_it() -> None:
    """Nor to less, but for what two decoders' pixels differ by, which counts where a precision costs less."""
    for precision, limit in LIMITS.items():
        assert limit == max(TOLERANCE[precision], 0.005 if precision == "fp32" else 0.01)


def test_the_plan_follows_what_ran() -> None:
    failed = {"seconds": 1.0, "failed": "no Hopper"}
    contact = {"first_decoder": {"result": {}}, "first tensorrt_rtx": failed, "first torch": {"result": {"max": 0.0}}}
    assert ran(contact) == ("torch",)
    assert not any("tensorrt" in step.title for step in plan(ran(contact)))
    (verdict,) = (c["verdict"] for c in checks(contacts(("tensorrt_rtx",)), contact) if "tensorrt_rtx" in c["check"])
    assert verdict == "failed"


STEPS = [step for step in plan(("tensorrt", "torch")) if step.name in ("parity", "speed", "eager", "paper", "memory")]
STEPS = [step for step in STEPS if step.arguments[:2] in ((), ("tensorrt", "fp32"), ("tensorrt", "fp16"), ("torch",))]
RESULTS: dict[str, dict[str, Any]] = {
    "parity tensorrt fp32": {"result": {"max": 0.004, "differ": 0}},
    "parity tensorrt fp16": {"result": {"max": 0.011, "differ": 0}},
    "parity tensorrt fp16 members": {"result": {"max": 0.0, "differ": 2}},
    "speed tensorrt fp16": {"result": {"whole": 900.0, "whole_over_slowest_stage": 0.95}},
    "speed tensorrt fp32": {"failed": "not run: no time left"},
    "eager": {"result": {"images_per_second": 20.0}},
    "paper torch": {"failed": "stopped after 150 s"},
    "memory tensorrt fp16": {"result": {"growth_mb": 100.0}},
}


def test_verdicts() -> None:
    found = {entry["check"]: entry["verdict"] for entry in checks(STEPS, RESULTS)}
    differ = "images that fail only here or only there"
    assert found == {
        "parity tensorrt fp32: score against the CPU's": "passed",
        f"parity tensorrt fp32: {differ}": "passed",
        "parity tensorrt fp16: score against the CPU's": "failed",
        f"parity tensorrt fp16: {differ}": "passed",
        "parity tensorrt fp16 members: score against the CPU's": "passed",
        f"parity tensorrt fp16 members: {differ}": "failed",
        "speed tensorrt fp16: whole over slowest stage": "passed",
        "speed tensorrt fp16: whole over eager loop": "failed",
        "the paper's five CNNs together, images/s": "did not run",
        "memory tensorrt fp16: growth of device memory, MB": "failed",
    }
    text = table({"machine": "X", "checks": checks(STEPS, RESULTS), "steps": RESULTS})
    assert "paper torch: stopped after 150 s" in text and text.count("FAILED") == 4 and "did not run" in text


@pytest.mark.parametrize("value", [math.nan, None, "n/a"])
def test_what_is_no_number_fails(value: Any) -> None:
    (entry, _) = checks([Step("parity", ("torch", "fp32"))], {"parity torch fp32": {"result": {"max": value}}})
    assert entry["verdict"] == "failed" and entry["value"] is None
    rows = [{"verdict": "passed"}, entry]
    assert exit_status(rows) == 1


def test_a_promise_that_was_not_put_to_the_test_is_no_success() -> None:
    assert exit_status([{"verdict": "passed"}, {"verdict": "did not run"}]) == 4
    assert exit_status([{"verdict": "failed"}, {"verdict": "did not run"}]) == 1
    assert exit_status([{"verdict": "passed"}, {"verdict": "not judged"}]) == 0
    assert exit_status([]) == 1  # nothing was promised: nothing was shown
    late = {step.title: {"failed": "not run: no time left"} for step in STEPS}
    assert {entry["verdict"] for entry in checks(STEPS, late)} == {"did not run"}


def test_the_fastest_engine_that_ran_is_judged() -> None:
    steps = [Step("speed", ("tensorrt", "fp16")), Step("speed", ("torch", "fp16"))]
    results = {
        "speed tensorrt fp16": {"failed": "out of memory"},
        "speed torch fp16": {"result": {"whole": 9.0, "whole_over_slowest_stage": 0.5}},
    }
    (entry,) = checks(steps, results)
    assert entry["check"].startswith("speed torch fp16") and entry["verdict"] == "failed"


# --- a step that measures must not count failures ----------------------------------------------------------------


@pytest.fixture
def settings(bundle: Path, tmp_path: Path) -> Settings:
    gpu_acceptance.make_images(tmp_path / "generated", 4)
    generated = str(tmp_path / "generated")
    return Settings(str(bundle), str(tmp_path), generated, generated, None, seconds=0.05)


class Broken:
    """A decoder that fails on every image, and quickly."""

    options = DecodeOptions(64, batch_size=4)

    def stream(self, images: Any) -> Any:
        for image in images:
            error = ImageError(Status.corrupt, "CUDA error: no kernel image")
            yield Decoded(image.key, 1, error)


def test_a_decoder_that_fails_on_every_image_fails_the_parity(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_steps.cpu_scores(settings)
    monkeypatch.setattr(
        gpu_steps, "make_engine", lambda s, *_: torch_engine.create(bundles.load(s.model), "fp32", None, 2)
    )
    real = gpu_steps.decoder_for
    monkeypatch.setattr(gpu_steps, "decoder_for", lambda s, on_gpu: Broken() if on_gpu else real(s, on_gpu))
    result = gpu_steps.parity(replace(settings, gpu=0), "torch", "fp32")
    assert math.isnan(result["max"]) and result["differ"] == 8
    assert "no kernel image" in result["generated, gpu decoder"]["failures"][0]
    kept = last_object(json.dumps(result))
    found = checks([Step("parity", ("torch", "fp32"))], {"parity torch fp32": {"result": kept}})
    assert [entry["verdict"] for entry in found] == ["failed", "failed"]


def test_a_model_that_gives_reasons_is_measured_by_its_scores(settings: Settings) -> None:
    """Its networks have more columns than members."""
    settings = replace(settings, model="default")
    assert bundles.load("default").reasons
    gpu_steps.cpu_scores(settings)
    result = gpu_steps.parity(settings, "torch", "fp32")
    assert result["max"] < 0.001 and result["differ"] == 0
    assert gpu_steps.eager(settings)["images_per_second"] > 0


def test_failures_are_no_rate(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaqap_fast.bench.gpu_measure.decoder_for", lambda *_, **__: Broken())
    with pytest.raises(RuntimeError, match="failed: CUDA error: no kernel image"):
        decode_rate(settings, gpu_steps.encoded(settings))
    from metaqap_fast.bench.gpu_measure import whole_rate
    from metaqap_fast.scorer import Scorer

    scorer = Scorer(settings.model, precision="fp32", isolate=False)
    scorer.decoder = Broken()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="8 of 8 images failed"):
        whole_rate(settings, scorer, 1.0)
    scorer.engine.close()


def test_without_timm_only_the_papers_networks_are_missing() -> None:
    code = "import sys; sys.modules['timm'] = None; import metaqap_fast.bench.gpu_steps"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_gpu_that_is_watched_is_the_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi counts all GPUs, CUDA those of CUDA_VISIBLE_DEVICES, in its order."""
    asked: list[list[str]] = []
    monkeypatch.setattr(gpu_measure, "output_of", lambda command: asked.append(command) or "50")
    with gpu_measure.Utilisation(Gpu(0, "NVIDIA H100", 90, 80 << 30, "GPU-77")) as utilisation:
        while not asked:
            time.sleep(0.01)
    assert "--id=GPU-77" in asked[0] and utilisation.mean() == 50.0


def test_one_sample_of_memory_shows_no_growth() -> None:
    with pytest.raises(RuntimeError, match="1 samples in the time there was: 8 are needed"):
        gpu_steps.growth([100.0])
    assert gpu_steps.growth([9.0, 50.0, 60.0, 61.0, 75.0, 60.0, 60.0, 60.0])["growth_mb"] == 15.0


# --- steps in processes of their own ------------------------------------------------------------------------------


def test_a_step_that_fails_or_hangs_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"model": "nosuch", "work": str(tmp_path), "generated": "", "photos": "", "gpu": None}
    failed = run_step(Step("environment"), settings, 600)
    assert "unknown model 'nosuch'" in failed["failed"] and any("Traceback" in line for line in failed["stderr"])
    assert run_step(Step("environment"), settings, 0.2)["failed"] == "stopped after 0 s"
    seen: list[float] = []
    monkeypatch.setattr(
        gpu_acceptance, "run_step", lambda step, settings, seconds: seen.append(seconds) or {"result": {}}
    )
    settings = {**settings, "gpu": 0}
    results = measure(settings, [Step("a", limit=5), Step("b", limit=1000)], time.monotonic() + 30, lambda text: None)
    assert seen[0] == 5 and seen[1] < 31 and results == {"a": {"result": {}}, "b": {"result": {}}}
    late = measure(settings, [Step("a")], time.monotonic() + 5, lambda text: None)
    assert late == {"a": {"failed": "not run: no time left"}}


def test_what_a_stopped_step_found_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "step"
    script.write_text(
        f"#!{sys.executable}\nimport time\nprint('a log line')\nprint('{{\"16\": 100.0, \"32\": NaN}}', flush=True)\n"
        "print('{half a li', flush=True)\ntime.sleep(60)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(gpu_acceptance.sys, "executable", str(script))
    out = run_step(Step("sweep_batch"), {}, 5)
    assert out["failed"] == "stopped after 5 s" and out["partial"] == {"16": 100.0, "32": None} and out["seconds"] < 30
    text = table({"machine": "X", "checks": [], "steps": {"sweep_batch": out}})
    assert "sweep_batch: 16" in text and "100.00" in text
