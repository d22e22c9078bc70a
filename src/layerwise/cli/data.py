"""`layerwise data`: the kinds of data there are, or what is in one data set."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from layerwise.cli.options import data_names
from layerwise.cli.printing import print_table, printable
from layerwise.cli.shared import DuplicatesOption, GreyOption, GroupsOption, ResizeOption


def data(
    locator: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="Show what is in this data set.", autocompletion=data_names),
    ] = None,
    resize: ResizeOption = None,
    grey: GreyOption = False,
    groups: GroupsOption = None,
    drop_duplicates: DuplicatesOption = False,
) -> None:
    """List the kinds of data and how to name them, or show what is in a data set before anything is trained on it.

    Images are read as a study reads them, and nothing is kept. Unreadable ones are listed, not an error; and so are
    images that are merely alike, such as a picture saved twice.
    """
    if locator is None:
        from layerwise.data import READERS

        print_table(["--data", "what it is"], [[reader.form, reader.help] for reader in READERS.values()])
        return
    from dataclasses import replace

    from layerwise.data.alike import notes
    from layerwise.data.dataset import names
    from layerwise.data.pictures import SizesError
    from layerwise.data.summary import summary
    from layerwise.images import Images

    asked = Images(
        locator, resize=resize, grey=grey, skip_unreadable=True, drop_duplicates=drop_duplicates, groups=groups
    )
    with tempfile.TemporaryDirectory(prefix="layerwise-data-") as folder:
        try:
            found, place = asked.open(Path(folder))
            cure = ""
        except SizesError as error:
            found, place = replace(asked, resize=error.side).open(Path(folder))
            cure = f"sizes differ: pass --resize N; shown as by --resize {error.side}"
        told = summary(found, cure)
        alike = notes(found, names(place))
    print_table(["data", locator], [list(line) for line in told.lines])
    typer.echo("")
    print_table(told.heads, [list(row) for row in told.classes])
    for heading, items in (("Notes", (*told.notes, *alike)), ("Unreadable", told.unreadable)):
        if items:
            typer.echo(f"\n{heading}:")
            for item in items:
                typer.echo(f"  {printable(item)}")
