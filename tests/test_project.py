"""The project's habits: what is in the wheel, that it installs, versions that agree, checks that can be run."""

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import layerwise
from layerwise.store import STORE_VERSION

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).with_name("layerwise")
CALLED = {"PIL": "pillow", "sklearn": "scikit_learn", "vl_convert": "vl_convert_python"}  # in a registry
PAPERS = (
    "How transferable are features in deep neural networks?",
    "Knowledge transfer in deep convolutional neural nets",
    "Transferable learning in convolutional neural networks",
    "Better techniques for transfer learning",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy with what is here and nothing else, without the network."""
    place = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, place / "project" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "project")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--wheel-dir", str(place / "dist"), str(place / "project")],
        check=True, capture_output=True,
    )  # fmt: skip
    (found,) = (place / "dist").glob("*.whl")
    return found


def test_the_wheel_has_all_of_the_package_the_licence_and_no_tests(wheel: Path) -> None:
    assert wheel.name == f"layerwise-{layerwise.__version__}-py3-none-any.whl"
    files = [path for path in (ROOT / "src" / "layerwise").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    package = {str(path.relative_to(ROOT / "src")) for path in files}
    assert {"layerwise/py.typed", "layerwise/report/page.css", "layerwise/report/page.js"} < package
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {name for name in names if ".dist-info/" not in name} == package
        told = f"layerwise-{layerwise.__version__}.dist-info"
        assert archive.read(f"{told}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        metadata = archive.read(f"{told}/METADATA").decode().splitlines()
        assert b"layerwise = layerwise.cli:main" in archive.read(f"{told}/entry_points.txt")
    assert {"License-Expression: MIT", "Classifier: Typing :: Typed", "Requires-Python: >=3.11"} <= set(metadata)


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it."""
    tree = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in plain | froms}


def test_every_library_that_is_imported_is_declared() -> None:
    """What another library happens to bring may be gone with its next version."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: needs for name, needs in declared["optional-dependencies"].items() if name not in {"dev", "docs"}}
    needs = [*declared["dependencies"], *itertools.chain.from_iterable(extras.values())]
    names = {re.split(r"[^\w-]", need)[0].lower().replace("-", "_") for need in needs}
    imported = set[str]().union(*map(imports, (ROOT / "src" / "layerwise").rglob("*.py")))
    found = {CALLED.get(name, name.lower()) for name in imported - sys.stdlib_module_names - {"layerwise"}}
    assert found - names == set()
    assert not set(CALLED) - imported


def test_the_image_for_a_cluster_installs_what_make_wheel_made() -> None:
    """The package is in no registry that an image could have it from."""
    page, make = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/cluster.md", "Makefile"))
    assert not re.search(r"pip install [^\n]*'layerwise\[", page)
    assert page.count("make wheel") == 2
    assert (
        'COPY dist/layerwise-*.whl /tmp/\nRUN pip install --no-cache-dir "$(ls /tmp/layerwise-*.whl)[cluster]"' in page
    )
    assert "wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist ." in make


@pytest.mark.soak
def test_the_wheel_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """Nothing of this tree is there: the wheel is installed, and its libraries are those of this environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    place = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    libraries = Path(torch.__file__).parents[1]
    (Path(place) / "libraries.pth").write_text(f"{libraries}\n")  # their own .pth files are not followed
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def done(*words: str) -> "subprocess.CompletedProcess[str]":
        command = tmp_path / "env" / "bin" / "layerwise"
        return subprocess.run([command, *words], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=250)

    code = "import layerwise; print(layerwise.__file__)"
    where = subprocess.run([python, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True).stdout
    assert Path(where.strip()).is_relative_to(tmp_path)
    assert done("doctor").returncode == 0
    study = done(
        "study", "gutstein", "--experiments", "levels", "--data", "digits", "--resize", "32", "--seeds", "1", "--shots",
        "1", "--steps", "5", "--source-steps", "5", "--out", "out",
    )  # fmt: skip
    assert (study.returncode, (tmp_path / "out" / "report.html").is_file()) == (0, True), study.stderr


def test_versions_and_device_are_told(run: Callable[..., SimpleNamespace]) -> None:
    found = run("--version")
    first, second, third, last = found.out.splitlines()
    assert (found.code, first) == (0, f"layerwise {layerwise.__version__}")
    assert second.startswith(f"torch {torch.__version__}, Python 3.")
    assert "1 thread a process" in third
    assert third.startswith("device ")
    assert last == f"store format {STORE_VERSION}"


def test_a_torch_that_cannot_be_imported_is_told(
    run: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    lines = run("--version").out.splitlines()
    assert lines[1].startswith("torch cannot be imported (ModuleNotFoundError: import of torch halted;")
    assert lines[1].endswith("see `layerwise doctor`")


def test_the_citation_names_the_four_papers_and_this_version() -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (told["version"], told["license"], told["cff-version"]) == (layerwise.__version__, "MIT", "1.2.0")
    assert tuple(one["title"] for one in told["references"]) == PAPERS
    assert all(one["authors"] and one["type"] for one in told["references"])


def test_the_changelog_has_this_version() -> None:
    assert f"## [{layerwise.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_checks_before_a_commit_are_of_this_environment() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repo["repo"] == "local"
    lint = (ROOT / "Makefile").read_text(encoding="utf-8")
    for hook in repo["hooks"]:
        tool = hook["entry"].split()[0]
        assert hook["language"] == "system"
        assert Path(sys.executable).with_name(tool).exists()
        assert f"$(BIN)/{tool}" in lint


def test_what_is_made_here_is_not_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"/build/", "/dist/", "/.venv/", "/layerwise-store/", "/layerwise-out/", "*.egg-info/"} <= set(ignored)


def test_files_that_contributors_are_sent_to_are_there() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    layout = [word for line in told.split("```")[0].splitlines() if line.startswith("      ") for word in line.split()]
    named = [word.rstrip(",") for word in layout if word.rstrip(",").endswith((".py", "/"))]
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "src" / "layerwise" / name).exists()] == []


def completed(words: str) -> list[str]:
    """What bash is told of a word that is not whole."""
    asked = {"_LAYERWISE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    return subprocess.run(
        [COMMAND], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("layerwise wat", ["watch"]),
        ("layerwise doctor --js", ["--json"]),
        ("layerwise study gutstein --tens", ["--tensorboard"]),
        ("layerwise study gutstein --experiments levels,pa", ["levels,partial"]),
        ("layerwise nets lenet5r", ["lenet5relu"]),
    ],
)
def test_the_shell_completes_commands_options_and_lists(words: str, found: list[str]) -> None:
    assert completed(words) == found


def test_the_shell_is_told_how_to_complete() -> None:
    script = subprocess.run(
        [COMMAND], env={**os.environ, "_LAYERWISE_COMPLETE": "source_bash"}, capture_output=True, text=True, check=True
    ).stdout
    assert "_LAYERWISE_COMPLETE=complete_bash" in script
    assert "layerwise" in script.strip().splitlines()[-1]
