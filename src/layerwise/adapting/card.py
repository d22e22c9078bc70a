"""The model card of an adapted net: README.md, made from what layerwise.json says."""

import re
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from layerwise.adapting.described import Described, Learnt
from layerwise.adapting.measured import BINS, LEVEL
from layerwise.treatment import Treatment

MEANINGS = {
    "F": "copied, frozen",
    "T": "copied, tuned",
    "R": "fresh, trained",
    "X": "fresh, frozen",
    "M": "fresh with the copied layer's mean and deviation, trained",
    "W": "rewound, trained",
    "P": "copied in part",
}
PARTS = {"train": "train on", "validation": "choose by", "test": "test on"}
MOST_IN_MATRIX = 20  # classes; of more the confusions are listed
MOST_CONFUSIONS = 15


def card(described: Described) -> str:
    """The card in Markdown."""
    title = f"# {_plain(described.net)}, adapted to {_joined([task.name for task in described.tasks])}"
    parts = [title, _what(described), *(_task(described, task) for task in described.tasks), _use(described)]
    return "\n\n".join(parts) + "\n"


def _what(described: Described) -> str:
    made, weights = described.preprocessing, described.weights
    size = f"{made.width}x{made.height}"
    sized = f"the centre square at {size} pixels" if made.resize else f"{size} pixels, as they come"
    kind = "grey" if made.channels == 1 else "colour"
    began = f"weights of SHA-256 `{weights}`" if weights else "no weights"
    several = len(described.tasks) > 1
    return "\n".join(
        [
            f"- Net: {_code(described.net)}, {len(described.layers)} layers; it began with {began}",
            f"- Images: {kind}, {sized}; `(pixel / 255 - mean) / std` with mean {_numbers(made.mean)}, "
            f"std {_numbers(made.std)}",
            *["- The tasks share a frozen trunk, stored once; one that is added leaves the others as they are"]
            * several,
            f"- Made with {', '.join(f'{name} {version}' for name, version in described.versions.items())}",
        ]
    )


def _task(described: Described, task: Learnt) -> str:
    images = task.data["images"]
    counted = ", ".join(f"{images[part]:,} to {verb}" for part, verb in PARTS.items() if images[part])
    shared = f"The first {task.trunk} of {len(described.layers)} layers are those of task " if task.trunk else ""
    sections = [
        f"## Task `{task.name}`: {len(task.classes)} classes",
        f"Classes: {', '.join(map(_plain, task.classes))}",
        *[f"{shared}`{described.tasks[0].name}`, in `model.safetensors`."] * bool(shared),
        _measured(task) if task.test else "No images were kept back: how good it is on others is **not known**.",
        f"### How it was made\n\n{_treated(described.layers, task)}\n\n{_recipes(task)}",
        f"### Data\n\n{_plain(task.data['name'])} (digest `{task.data['digest']}`): images: {counted}.\n\n"
        + "\n".join(f"- {_plain(note)}" for note in task.notes),
        f"Made {task.made} by run `{task.run}` (seed {task.seed}): {_code(task.command)}",
    ]
    return "\n\n".join(section.rstrip() for section in sections)


def _measured(task: Learnt) -> str:
    test = task.test
    assert test is not None
    low, high = test["interval"]
    rows = [
        ["accuracy", f"**{test['accuracy']:.1%}** ({LEVEL:.0%} interval {low:.1%} to {high:.1%}, Wilson)"],
        ["balanced accuracy", f"{test['balanced_accuracy']:.1%} (mean recall of the classes)"],
        [
            "expected calibration error",
            f"{test['calibration_error']:.1%} ({BINS} equal bins, Guo et al. 2017, eq. 3)",
        ],
    ]
    table = _table([f"on {test['examples']:,} test images, looked at once", ""], rows)
    per_class = [
        [_plain(name), _share(precision), _share(recall), str(support)]
        for name, precision, recall, support in zip(
            task.classes, test["precision"], test["recall"], test["support"], strict=True
        )
    ]
    classes = _table(["class", "precision", "recall", "support"], per_class)
    return f"### Measured\n\n{table}\n\n{classes}\n\n{_confusion(task.classes, test['confusion'])}"


def _confusion(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """The matrix, or where there are many classes the most frequent confusions."""
    if len(classes) <= MOST_IN_MATRIX:
        rows = [[name, *map(str, row)] for name, row in zip(map(_plain, classes), confusion, strict=True)]
        return "Confusion matrix: test images by class (rows) and predicted class (columns).\n\n" + _table(
            ["", *map(_plain, classes)], rows
        )
    wrong = [
        (count, _plain(classes[true]), _plain(classes[said]))
        for true, row in enumerate(confusion)
        for said, count in enumerate(row)
        if count and said != true
    ]
    rows = [[true, said, str(count)] for count, true, said in sorted(wrong, key=lambda one: -one[0])[:MOST_CONFUSIONS]]
    told = f"The {len(rows)} most frequent of {len(wrong)} confusions; the whole matrix is in `layerwise.json`."
    return f"{told}\n\n{_table(['class', 'predicted', 'images'], rows)}" if rows else "No image was confused."


def _treated(layers: Sequence[str], task: Learnt) -> str:
    """What became of the layers: neighbours of one letter on one line."""
    lines = []
    stages = Treatment.parse(task.letters).letters()
    for number, letters in enumerate(stages, 1):
        if len(stages) > 1:
            lines.append(f"- Stage {number}:")
        ends = [0]
        for _, group in groupby(letters):
            ends.append(ends[-1] + len(list(group)))
        for begin, end in pairwise(ends):
            names = f"`{layers[begin]}`" + (f" to `{layers[end - 1]}`" if end - begin > 1 else "")
            what = f"{names} ({end - begin} layer{'s' * (end - begin > 1)}): {_meaning(letters[begin])}"
            lines.append(f"{'  ' * (len(stages) > 1)}- {what}")
    return f"Treatment `{task.treatment}`:\n\n" + "\n".join(lines)


def _meaning(letter: str) -> str:
    return MEANINGS[letter[0]] + (f" (`{letter}`)" if letter[0] == "P" else "")


def _recipes(task: Learnt) -> str:
    told = [
        f"{recipe['steps']:,} steps of {recipe['batch_size']} images, {recipe['optimiser']} at rate {recipe['rate']:g}"
        for recipe in task.recipes
    ]
    text = f"Trained for {', then '.join(told)}."
    if not task.tried:
        return text
    rows = [
        [
            ", then ".join(f"{rate:g}" for rate in one["rates"]),
            _share(one["accuracy"]),
            _number(one["loss"]),
        ]
        for one in task.tried
    ]
    return f"{text} The rate was chosen on validation images:\n\n{_table(['rate', 'accuracy', 'loss'], rows)}"


def _use(described: Described) -> str:
    name = f', task="{described.tasks[-1].name}"' if len(described.tasks) > 1 else ""
    lines = [
        "## How to use it",
        "```python\nimport layerwise\n",
        f'net = layerwise.load_adapted("FOLDER"{name})  # an nn.Module; digests are checked, nothing is unpickled',
        'print(net.predict("photo.jpg")[:3])',
        'logits = net(net.preprocess("photo.jpg")[None])\n```',
    ]
    shell = f"layerwise predict FOLDER{f' --task {described.tasks[-1].name}' * bool(name)} photo.jpg"
    onnx = (
        "\n\nAs ONNX: "
        + ", ".join(f"`{task.onnx}`" for task in described.tasks if task.onnx in described.files)
        + (
            "; input `images` (batch, channels, height, width), preprocessed as above; outputs `logits` and "
            "`probabilities`; classes are in its metadata."
        )
    )
    exported = any(task.onnx in described.files for task in described.tasks)
    return f"{lines[0]}\n\n" + "\n".join(lines[1:]) + f"\n\n```\n{shell}\n```" + onnx * exported


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Words of a user's on one line, in which nothing is markup: a class may be called <script>."""
    return re.sub(r"[\\`*<>&\[\]|]", r"\\\g<0>", " ".join(text.split()))


def _code(text: str) -> str:
    """The text as it is, between more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " * (fence != "`")
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def _share(value: Any) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.3f}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
