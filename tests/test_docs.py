"""Every block of the README and of docs/ runs, page by page: Python as it stands, commands with small settings.

Pages share one folder of small materials: pictures, weights, data sets of each kind. What is not run has its reason in
NOT_RUN or ELSEWHERE; a block or a command that is in neither, and that nothing here knows how to run, fails. Every
command of ours is parsed as it stands, so that an option which is not there fails, and then run once in small.
"""

import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from typer.main import get_command

import layerwise
from layerwise.cli import app
from layerwise.nets import build
from layerwise.probing.examine import chosen

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

NOT_RUN = {  # how a command begins, and why it is not run
    "git clone": "needs the repository's address",
    "source": "activates what `make` has made",
    "pip install": "needs a network; its extras are looked up",
    "ray": "starts what outlives the test; tests/test_cluster.py has a cluster of its own",
    "kubectl": "needs a cluster of Kubernetes",
    "python -m layerwise.large": "tests/test_large.py runs it",
    "python benchmarks/": "hours; tests/test_benchmarks.py and test_regret.py run them in small",
    ".venv/bin/python benchmarks/": "the same",
    "layerwise study all": "tests/test_scoreboard.py runs it",
    "layerwise study gutstein --device cuda": "needs a GPU",
    "layerwise study gutstein --precision bfloat16": "not every processor calculates so",
}
ELSEWHERE = {  # what a block of Python begins with or contains, and why it is not run
    "python examples/own_study.py": "tests/test_examples.py runs it",
    'layerwise.study("all"': "tests/test_scoreboard.py runs it",
    'train_large(run, folder, None, devices=4, accelerator="cuda"': "four GPUs; tests/test_large.py runs it on CPUs",
    "from layerwise.callbacks import": "tests/test_applying.py runs it, where the library is there",
}
SMALLER = {  # of Python: the same, in small
    'resize=32, seeds=2, shots=[1, 5])': 'resize=32, experiments="levels", seeds=1, shots=[1], steps=2, '
    'source_steps=2, executor="serial")',
    'advise("lenet5relu@letters/model.safetensors", "folder:photos", resize=32)': 'advise('
    '"lenet5relu@letters/model.safetensors", "folder:photos", resize=32, budget=0.001, executor="serial")',
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced and the indented blocks of a page, as CommonMark has them."""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in {"fence", "code_block"} and token.map:
            language, _, told = token.info.partition(" ")
            title = re.search('title="(.*)"', told)
            where = str(page.relative_to(ROOT))
            yield Block(where, token.map[0] + 1, language, title[1] if title else "", token.content)


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a block, each as its words, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            if words := shlex.split(part, comments=True):
                yield words


# ---- the materials


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages' commands name."""
    folder = tmp_path_factory.mktemp("pages")
    digits = load_digits()
    images, labels = np.rint(digits.images * 15.9).astype(np.uint8), digits.target
    runpy.run_path(str(ROOT / "examples" / "photos.py"))["write"](folder / "photos", 12)
    for name, shown in {"others": ("six", "nine"), "birds": ("one", "four"), "pets": ("two", "five", "eight")}.items():
        for kind in shown:
            shutil.copytree(folder / "photos" / kind, folder / name / kind)
    (folder / "more-photos").mkdir()
    colour = Image.open(folder / "photos" / "two" / "0001.png").convert("RGB")
    for name in ("photo.jpg", "more-photos/1.jpg"):
        colour.save(folder / name)
    for kind in KINDS:
        (folder / "people" / kind).mkdir(parents=True)
        for k, file in enumerate(sorted((folder / "photos" / kind).iterdir())):
            shutil.copy(file, folder / "people" / kind / f"P{k // 2}_{k:04}.png")
    save_file(build("resnet20", (3, 32, 32), 10, 0).state_dict(), folder / "weights.safetensors")
    shutil.copy(folder / "weights.safetensors", folder / "resnet20.safetensors")
    save_file(build("lenet5relu", (1, 32, 32), 12, 0).state_dict(), folder / "lenet.safetensors")
    write_data(folder, images, labels)
    return folder


def write_data(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The same images as IDX files, as an npz with writers, as parquet files, and as a list."""
    home = folder / "path" / "to"
    (home / "mnist").mkdir(parents=True)
    for start, part in (("train", slice(0, 600)), ("t10k", slice(600, 800))):
        for what, values in (("images-idx3", images[part]), ("labels-idx1", labels[part].astype(np.uint8))):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (home / "mnist" / f"{start}-{what}-ubyte").write_bytes(head + values.tobytes())
    order = np.argsort(labels, kind="stable")
    writer = np.concatenate([np.arange(np.sum(labels == k)) % 55 for k in range(10)])
    large = images[order].repeat(4, 1).repeat(4, 2)
    np.savez(folder / "characters.npz", images=large, labels=labels[order], writer=writer)
    (home / "cifar10").mkdir()
    pictures = [in_colour(folder / "photos" / name / f"{k:04}.png") for k in range(12) for name in KINDS]
    rows = {"image": [{"bytes": one, "path": None} for one in pictures], "label": [*KINDS] * 12}
    pq.write_table(pa.table(rows), home / "cifar10" / "train-00000-of-00001.parquet")
    kinds = [f"{name},{'round' if name in KINDS[:5] else 'other'}" for name in KINDS]
    (home / "cifar10" / "classes.csv").write_text("\n".join(["label,kind", *kinds]))
    lines = [
        f"photos/{name}/{k:04}.png,{name},person{k},{'test' if k > 8 else 'train'}" for name in KINDS for k in range(12)
    ]
    (folder / "list.csv").write_text("\n".join(["path,label,person,split", *lines]))


def in_colour(path: Path) -> bytes:
    """The picture as CIFAR-10 has its own: 32x32 and in colour."""
    file = io.BytesIO()
    Image.open(path).convert("RGB").resize((32, 32)).save(file, "png")
    return file.getvalue()


KINDS = ("eight", "five", "four", "nine", "one", "seven", "six", "three", "two", "zero")


# ---- commands


def parsed(words: list[str]) -> None:
    """Parse a command of ours as it stands; its list of probes too."""
    command: Any = get_command(app)
    told, rest = "layerwise", words[1:]
    while hasattr(command, "commands"):
        assert (rest or [""])[0] in command.commands, f"there is no command {told} {' '.join(rest[:1])}"
        told, command, rest = f"{told} {rest[0]}", command.commands[rest[0]], rest[1:]
    context = command.make_context(told, list(rest))
    if words[1] == "probe":
        chosen(context.params["probes"])


OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {  # of a command: the options that go, and what comes
    "study": (("--seeds", "--scale", "--executor", "--address", "--store", "--dry-run"), "--seeds 1 --dry-run"),
    "probe": (("--probes",), "--probes knn --examples 6 --steps 2"),
    "advise": (("--budget",), "--budget 0.1%"),
    "adapt": (("--onnx",), ""),
}  # fmt: skip
FLAGS = {"--onnx", "--dry-run"}
SMALL_NET = "lenet5relu@lenet.safetensors"


def in_small(words: list[str]) -> list[str]:
    """The same command, soon done: fewer steps, less data, in this process."""
    name = words[1]
    gone, more = OPTIONS.get(name, ((), ""))
    kept, skip = [], False
    for word in words[1:]:
        if not skip and word not in gone:
            kept.append(word)
        skip = not skip and word in gone and word not in FLAGS
    kept += shlex.split(more)
    if name in {"study", "advise", "adapt"}:
        kept += ["--executor", "serial"]
    if name == "adapt":
        kept += [] if "--advice" in kept else ["--steps", "3"]
        kept += [] if {"--advice", "--rates"} & set(kept) else ["--rates", "0.01"]
    if name == "study" and "--data" not in kept:
        kept += ["--data", "digits"] + ([] if "--resize" in kept else ["--resize", "32"])
    if name == "advise" or "--advice" in kept:
        kept = [SMALL_NET if word == "resnet20@weights.safetensors" else word for word in kept]
    return ["glyphs:4" if word.startswith("glyphs:") else word for word in kept]


def extras() -> set[str]:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return set(told["project"]["optional-dependencies"])


def of_others(words: list[str]) -> None:
    """A command that is not ours: what it names must be there, and what is not run have its reason."""
    text = shlex.join(words)
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words[0] == "cd" or text.startswith("python examples/photos.py"):
        pass  # the folder is there, and so are the pictures
    else:
        assert any(text.startswith(start) for start in NOT_RUN), f"'{text}' is not run, and has no reason"
        for named in re.findall(r"\[([a-z,]+)\]", text) if words[:2] == ["pip", "install"] else ():
            assert set(named.split(",")) <= extras()
        assert all((ROOT / word).exists() for word in words if word.startswith(("benchmarks/", "examples/")))


@pytest.fixture(scope="module")
def done() -> set[str]:
    """Commands that have run in small: no need to run another that is then the same."""
    return set()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_does_as_it_says(
    name: str,
    place: Path,
    done: set[str],
    run: Callable[..., SimpleNamespace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
    found = list(blocks(ROOT / name))
    for block in found:
        if block.language == "python" and block.title.endswith(".py") and not reason(block):
            Path(block.title).parent.mkdir(exist_ok=True)
            Path(block.title).write_text(block.text, encoding="utf-8")
    for block in found:
        if block.language == "sh":
            for words in commands(block):
                do(words, block, done, run)
        elif block.language == "python":
            if block.title.startswith("examples/"):
                assert block.text == (ROOT / block.title).read_text(encoding="utf-8")
            if not reason(block):
                exec(compile(small_python(block.text), block.place, "exec"), names)
        else:
            look(block)


def do(words: list[str], block: Block, done: set[str], run: Callable[..., SimpleNamespace]) -> None:
    if words[0] != "layerwise":
        of_others(words)
        return
    parsed(words)
    text = shlex.join(words)
    if any(text.startswith(start) for start in NOT_RUN):
        return
    small = in_small(words)
    if small[:2] == ["runs", "show"]:
        keys = sorted(path.name for path in Path("layerwise-store/runs").glob("*/*") if path.is_dir())
        small[2] = keys[0]
    if shlex.join(small) in done:
        return
    prepare(small, run)
    told = run(*small)
    assert told.code == 0, f"{block.place}: {text}\nas: layerwise {shlex.join(small)}\n{told.err}{told.out}"
    done.add(shlex.join(small))


def prepare(words: list[str], run: Callable[..., SimpleNamespace]) -> None:
    """What pages that are run by themselves take from others: an adapted net, a finished study, a run in the store."""
    nets = [Path(word) for word in words if word in {"layerwise-out/adapt", "pets-net"}]
    for folder in nets if "--out" not in words else ():
        if not folder.exists():
            small = shlex.split("--steps 3 --rates 0.01 --executor serial --resize 32 --treatment F*R")
            assert run("adapt", SMALL_NET, "folder:photos", *small, "--out", str(folder)).code == 0
    if words[0] == "adapt" and "--onto" not in words:  # one with further tasks is not overwritten
        made = words[words.index("--out") + 1] if "--out" in words else "layerwise-out/adapt"
        shutil.rmtree(made, ignore_errors=True)
    if words[0] in {"report", "runs", "watch"} and not Path("layerwise-out/gutstein/plan.json").exists():
        small = shlex.split("--data digits --resize 32 --seeds 1 --shots 1 --steps 2 --source-steps 2")
        assert run("study", "gutstein", "--experiments", "levels", *small, "--executor", "serial").code == 0
    if "layerwise-out/again" in words:
        shutil.copytree("layerwise-out/gutstein", "layerwise-out/again", dirs_exist_ok=True)
    if words[0] == "adapt" and "--advice" in words and not Path(words[words.index("--advice") + 1]).exists():
        told = [word for word in words[1:] if not word.startswith("layerwise-out") and word != "--advice"]
        assert run("advise", *told, "--budget", "0.1%").code == 0


def reason(block: Block) -> str:
    """Why a block of Python is not run here; empty where it is."""
    return next((why for start, why in ELSEWHERE.items() if start in block.text), "")


def small_python(text: str) -> str:
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    return text


def look(block: Block) -> None:
    """Blocks that nothing executes: they must be well formed, and the commands of ours in them too."""
    for text in re.findall(r"^(?: *entrypoint: )?(layerwise [^&\n]*)", block.text.replace("\\\n", " "), re.MULTILINE):
        if block.language != "text":
            parsed(shlex.split(text))
    if block.language == "yaml":
        assert list(yaml.safe_load_all(block.text))
    elif block.language == "bash":
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    elif block.language == "csv":
        assert Path(block.title).read_text().splitlines()[0] == block.text.splitlines()[0]
    else:  # what a command prints, and a Dockerfile, which needs a network
        assert block.language in {"text", "dockerfile"}, f"{block.place}: a block of '{block.language}' is not run"


def test_reasons_and_small_settings_are_of_what_is_there() -> None:
    every = [block for page in PAGES for block in blocks(page)]
    shell = [shlex.join(words) for block in every if block.language == "sh" for words in commands(block)]
    python = [block.text for block in every if block.language == "python"]
    assert [start for start in NOT_RUN if not any(text.startswith(start) for text in shell)] == []
    assert [text for text in [*ELSEWHERE, *SMALLER] if not any(text in block for block in python)] == []


def test_an_option_that_is_not_there_is_found() -> None:
    with pytest.raises(Exception, match="--bugdet"):
        parsed(["layerwise", "advise", "NET", "DATA", "--bugdet", "5%"])
    with pytest.raises(AssertionError, match="no command layerwise advice"):
        parsed(["layerwise", "advice", "NET", "DATA"])


# ---- the site


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install '.[docs]'")
def test_the_site_is_built_and_asks_no_other_host(tmp_path: Path) -> None:
    """Links and anchors are checked by mkdocs, which is strict."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(NAMES) - 1
    others = r"[\"']?(https?:)?//"
    loads = re.compile(
        rf"<(script|img|iframe|source)\b[^>]*\bsrc={others}|<link\b[^>]*rel=[\"']?(stylesheet|preconnect|icon)[^>]*href={others}"
    )
    assert [page.name for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []
    styles = [path for path in (tmp_path / "site").rglob("*.css") if re.search(r"url\(['\"]?https?:", path.read_text())]
    assert styles == []


def test_a_figure_of_these_pages_is_drawn_from_what_its_command_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"shots": [1], "seeds": 1, "steps": 5, "source_steps": 5, "executor": "serial", "quiet": True}
    place = {"store": tmp_path / "store", "out": tmp_path / "out"}
    layerwise.study("gutstein", data="digits", resize=32, experiments="levels", **few, **place)
    drawing = runpy.run_path(str(ROOT / "docs" / "figures.py"))
    monkeypatch.setitem(drawing["main"].__globals__, "HERE", tmp_path)
    monkeypatch.setitem(drawing["main"].__globals__, "FIGURES", {"gutstein": drawing["FIGURES"]["gutstein"]})
    drawing["main"]({"gutstein": str(tmp_path / "out")})
    assert (tmp_path / "gutstein.svg").read_text(encoding="utf-8").startswith("<svg")
    assert {path.stem for path in (ROOT / "docs" / "figures").glob("*.svg")} == set(drawing["FIGURES"])


def test_the_readme_links_to_what_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_public_names_are_in_the_reference() -> None:
    told = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    for name, home in layerwise.HOMES.items():
        whole = re.escape(f"layerwise.{home}")
        assert re.search(rf"::: {whole}(\.{name})?$", told, re.MULTILINE), f"{name} of layerwise.{home} is not there"
