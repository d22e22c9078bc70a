"""Which class an adapted net takes for which, as a figure."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from layerwise.report.figures import Figure


def confusions(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Test images by their class and the predicted one; `counts` by class (rows) and predicted class (columns)."""
    pairs = [(true, told, counts[i][j]) for i, true in enumerate(classes) for j, told in enumerate(classes)]
    table = pd.DataFrame(pairs, columns=["class", "predicted", "images"])
    across, up, colour = (
        alt.X(field="predicted", type="nominal", title="predicted class", sort=list(classes)),
        alt.Y(field="class", type="nominal", title="class", sort=list(classes)),
        alt.Color(field="images", type="quantitative", title="test images").scale(scheme="viridis"),
    )
    hover = [alt.Tooltip(field=name, type="nominal") for name in ("class", "predicted", "images")]
    chart = alt.Chart(table).mark_rect().encode(x=across, y=up, color=colour, tooltip=hover)
    caption = "Test images by their class and the predicted one; those on the diagonal are right."
    return Figure("Which class is taken for which", caption, chart.properties(width="container"), table)
