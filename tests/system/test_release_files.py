"""What stands around the package: scripts, workflows, forms, the image, the citation. Each names what there is."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import metaqap_fast
from documents import ROOT
from named import PROJECT, faults, pythons

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
SCRIPTS = sorted(path for path in (ROOT / ".ci").iterdir() if path.is_file())
TEXTS = [
    *(path for path in (*WORKFLOWS, *FORMS, *SCRIPTS)),
    *(ROOT / name for name in ("Dockerfile", "examples/tour.sh", "CONTRIBUTING.md", ".pre-commit-config.yaml")),
]


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["jobs"]
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path).values() for step in job.get("steps", ())]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_named_is_there(path: Path) -> None:
    assert list(faults(path.read_text())) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("run: .ci/runs", "no file .ci/runs"),
        ("run: .ci/release.py v1", ".ci/release.py cannot be run"),
        ("test-command = 'python {project}/.ci/instaled.py'", "no file .ci/instaled.py"),
        ("pip install -q -e '.[dev,docz]'", "no extra docz"),
        ("$python -m pytest -n 2 -m 'full and not weekly'", "no mark weekly"),
        ("$python -m metaqap_fast.bench.soaked --images 2", "no module metaqap_fast.bench.soaked"),
        ("docker run metaqap-fast scores . -o -", "no command scores"),
        ("what `metaqap-fast train runs` prints", "no command runs"),
        ("run metaqap-fast select scores.h5 --worse 3", "No such option '--worse'."),
    ],
)
def test_what_is_not_there_is_found(text: str, fault: str) -> None:
    assert list(faults(text)) == [fault]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_our_scripts(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert document["name"] == path.stem and document[True]  # `on:` is a truth value in YAML
    assert document["permissions"] == {"contents": "read"}  # what needs more, asks for it
    for name, job in jobs(path).items():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= set(jobs(path)), name
        if "uses" in job:
            assert True in (called := yaml.safe_load((ROOT / job["uses"]).read_text()))
            assert "workflow_call" in called[True]
        else:
            assert job["runs-on"] and job["steps"]
    for step in steps(path):
        assert ("run" in step) != ("uses" in step)
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+(\.\d+)*|release/v\d+)", step.get("uses", "a/b@v1"))


def test_every_script_is_run_by_a_workflow_or_by_another_script() -> None:
    names = {f".ci/{path.name}" for path in SCRIPTS}
    configured = PROJECT["tool"]["cibuildwheel"]["test-command"]
    text = "\n".join([*(str(step.get("run")) for path in WORKFLOWS for step in steps(path)), configured])
    reached = {name for name in names if re.search(rf"{re.escape(name)}(?![\w.])", text)}
    for name in sorted(reached):
        reached |= {other for other in names if re.search(rf"{re.escape(other)}(?![\w.])", (ROOT / name).read_text())}
    assert reached == names


def test_what_is_downloaded_was_uploaded() -> None:
    for path in WORKFLOWS:
        called = [ROOT / job["uses"] for job in jobs(path).values() if "uses" in job]
        uploaded = {
            step["with"]["name"]
            for each in (path, *called)
            for step in steps(each)
            if step.get("uses", "").startswith("actions/upload-artifact@")
        }
        wanted = {
            step["with"]["name"]
            for step in steps(path)
            if step.get("uses", "").startswith("actions/download-artifact@")
        }
        assert wanted <= uploaded, path.name


def test_the_same_pythons_everywhere() -> None:
    versions = pythons()
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    assert versions == [f"3.{minor}" for minor in range(20) if f"3.{minor}" in allowed] and len(versions) == 3
    ci = next(path for path in WORKFLOWS if path.stem == "ci")
    assert jobs(ci)["run"]["strategy"]["matrix"]["python"] == versions
    minors = ",".join(version.removeprefix("3.") for version in versions)
    assert PROJECT["tool"]["cibuildwheel"]["build"] == f"cp3{{{minors}}}-manylinux_x86_64"
    for path in WORKFLOWS:
        for step in steps(path):
            if step.get("uses", "").startswith("actions/setup-python@"):
                assert step["with"]["python-version"] in (*versions, "${{ matrix.python }}")
    image = re.search(r"^FROM python:([\d.]+)-slim$", (ROOT / "Dockerfile").read_text(), re.M)
    assert image is not None and image[1] in versions


SCHEMAS = {
    "github-workflows": WORKFLOWS,
    "github-issue-forms": [path for path in FORMS if path.stem != "config"],
    "github-issue-config": [path for path in FORMS if path.stem == "config"],
    "citation-file-format": [ROOT / "CITATION.cff"],
}


@pytest.mark.full
@pytest.mark.parametrize("kind", SCHEMAS)
def test_files_are_what_those_who_read_them_expect(kind: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{kind}", *SCHEMAS[kind]]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert SCHEMAS[kind] and run.returncode == 0, run.stdout


def test_a_form_asks_for_something() -> None:
    for path in SCHEMAS["github-issue-forms"]:
        asked = [each for each in yaml.safe_load(path.read_text())["body"] if each["type"] != "markdown"]
        assert any(each.get("validations", {}).get("required") for each in asked)
        assert len({each["id"] for each in asked}) == len(asked)


def test_statuses_in_the_form_exist() -> None:
    from metaqap_fast.errors import Status

    (options,) = re.findall(r"it is refused \(([\w, ]+)\)", (ROOT / ".github/ISSUE_TEMPLATE/picture.yml").read_text())
    assert set(options.split(", ")) <= set(Status.__members__)


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PROJECT["project"]
    assert citation["version"] == metaqap_fast.__version__ and citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    (paper,) = citation["references"]
    assert paper["url"] == project["urls"]["Paper"]


def test_pinned_checks_are_those_of_the_development_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    pins = [Requirement(pin) for hook in hooks for pin in hook.get("additional_dependencies", ())]
    wanted = {each.name: each for each in map(Requirement, PROJECT["project"]["optional-dependencies"]["dev"])}
    assert {pin.name for pin in pins} == {"ruff", "clang-format"}
    for pin in pins:
        (exact,) = pin.specifier
        assert exact.operator == "==" and Version(exact.version) in wanted[pin.name].specifier
    for _, same in itertools.groupby(sorted(pins, key=lambda pin: pin.name), key=lambda pin: pin.name):
        assert len({str(pin) for pin in same}) == 1


# --- a release -------------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A tree of what a release names, as it is when a version is closed."""
    for name in (".ci/release.py", "CITATION.cff", "metaqap_fast/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    version = metaqap_fast.__version__
    text = f"# Changelog\n\n## [Unreleased]\n\n## [{version}] - 2026-01-02\n\n### Added\n- This.\n\n"
    text += "## [0.0.1] - 2025-01-02\n- That.\n"
    (tmp_path / "CHANGELOG.md").write_text(text)
    return tmp_path


def released(root: Path, tag: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / ".ci" / "release.py", tag]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_notes_of_a_release_are_those_of_its_version(closed: Path) -> None:
    run = released(closed, f"v{metaqap_fast.__version__}")
    assert (run.returncode, run.stdout, run.stderr) == (0, "### Added\n- This.\n", "")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("CITATION.cff", "\nversion: ", "\nversion: 9", "CITATION.cff: the version is 9"),
        ("metaqap_fast/__init__.py", '__version__ = "', '__version__ = "9', "__init__.py: the version is 9"),
        ("CHANGELOG.md", "] - 2026-01-02", "]", "CHANGELOG.md: the version is 0.0.1"),
        ("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n- Left.\n", "entries under Unreleased"),
    ],
)
def test_a_tag_that_not_everything_names_is_no_release(
    closed: Path, name: str, old: str, new: str, message: str
) -> None:
    text = (closed / name).read_text()
    assert old in text
    (closed / name).write_text(text.replace(old, new, 1))
    run = released(closed, f"v{metaqap_fast.__version__}")
    assert run.returncode == 1 and message in run.stderr and "Traceback" not in run.stderr


def test_a_tag_has_a_v(closed: Path) -> None:
    assert "the tag of a release is a v" in released(closed, metaqap_fast.__version__).stderr


def test_the_changelog_is_in_order() -> None:
    """Unreleased, then versions, the latest first, each with a date; `release.py` reads it so."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]" and len(headings) > 1
    found = [re.fullmatch(r"\[([\d.]+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in headings[1:]]
    assert all(found)
    versions = [Version(each[1]) for each in found if each]
    assert versions == sorted(versions, reverse=True) and Version(metaqap_fast.__version__) in versions
