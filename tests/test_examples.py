"""The examples run, and their assertions hold."""

import ast
import runpy
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
TAKES_WORDS = {"photos": ["photos", "3"]}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr("sys.argv", [name, *TAKES_WORDS.get(name, [])])
    before = processor_time()
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert processor_time() - before < 60


def processor_time() -> float:
    """Seconds of processor that this process and all that it has started have taken: others beside it do not count."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (here, *here.children(recursive=True)))


def test_a_folder_of_pictures_is_one_that_layerwise_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerwise.data import open_data

    monkeypatch.syspath_prepend(EXAMPLES)
    runpy.run_path(str(EXAMPLES / "photos.py"))["write"](tmp_path / "photos", 2)
    data, _ = open_data(f"folder:{tmp_path / 'photos'}", tmp_path / "cache", resize=32)
    assert data.images.shape == (20, 1, 32, 32)
    assert sorted(data.class_names)[:2] == ["eight", "five"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the kernel's messages
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "first_look.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept in the repository"
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert isinstance(ast.parse(last.source).body[-1], ast.Assert)
    before = processor_time()
    done = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert processor_time() - before < 60
    shown = [output.data for cell in done.cells for output in cell.get("outputs", ()) if "data" in output]
    assert sum("text/html" in data for data in shown) == 3  # the study, a table, what was probed
    assert sum("image/svg+xml" in data for data in shown) == 1  # a figure, without a network


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_says_what_it_is_and_ends_in_an_assertion(name: str) -> None:
    """`photos` is no experiment; what it writes is looked at above."""
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    assert f"python examples/{name}.py" in (ast.get_docstring(tree) or "")
    mains = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert name == "photos" or isinstance((mains[0] if mains else tree).body[-1], ast.Assert)


def test_a_study_of_ones_own_is_short() -> None:
    text = (EXAMPLES / "own_study.py").read_text(encoding="utf-8")
    code = [line for line in text.partition('"""\n\n')[2].splitlines() if line.strip()]
    assert len(code) < 40
