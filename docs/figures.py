"""Draw the figures of these pages anew, each from the command that its page shows: `make figures`.

What the store has is not trained again. A folder that a command has left can stand for it: `figures.py gutstein=DIR`.
"""

import sys
from pathlib import Path

from layerwise import outputs
from layerwise.report import Figure

HERE = Path(__file__).parent / "figures"
FIGURES = {  # file: a study, its options, and the title of one of its report's figures
    "gutstein": ("gutstein", {"experiments": "levels"}, "Test accuracy against layers kept"),
    "yosinski": ("yosinski", {}, "The two causes of loss, layer by layer"),
}
WIDTH = 640  # pixels; in a report a figure is as wide as the page
STYLE = {"background": "white", "font": "sans-serif", "view": {"stroke": None}, "axis": {"gridColor": "#e4e4e4"}}


def draw(figure: Figure, path: Path) -> None:
    """Write the figure's chart as an SVG."""
    figure.chart.properties(width=WIDTH).configure(**STYLE).save(path)
    print(f"{path}: {figure.title}. {figure.caption}")


def main(folders: dict[str, str]) -> None:
    """Run each study, or read what it has left, and draw."""
    HERE.mkdir(exist_ok=True)
    for name, (study, options, title) in FIGURES.items():
        if name in folders:
            found = outputs.load(folders[name])
        else:
            from layerwise import api

            found = api.study(study, **options)
        (figure,) = (one for one in outputs.figures(study, found.rows) if one.title == title)
        draw(figure, HERE / f"{name}.svg")


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
