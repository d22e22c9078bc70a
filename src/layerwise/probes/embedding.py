"""Pictures of a layer: its examples in two dimensions, by t-SNE or by their principal components.

Van der Maaten and Hinton 2008, "Visualizing data using t-SNE", https://jmlr.org/papers/v9/vandermaaten08a.html, as
openTSNE computes it. A picture illustrates; what is claimed of classes is measured by layerwise.probes.spread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from sklearn.decomposition import PCA
from torch import Tensor

from layerwise.errors import RepresentationError, unknown
from layerwise.probes.about import About
from layerwise.probes.folds import check_features, constant_units
from layerwise.randomness import seed as seed_of

ABOUT = {
    "tsne": About(
        tells="Which examples are neighbours in the layer: what stands together in the picture mostly does so there.",
        misleads="Sizes of groups and distances between them mean nothing, and noise can look like groups; read the "
        "measures beside it.",
        source="Van der Maaten and Hinton 2008; Wattenberg et al. 2016, https://doi.org/10.23915/distill.00002",
    ),
    "pca": About(
        tells="The examples along the two directions in which the layer varies most, true to scale.",
        misleads="Classes that lie apart in other directions fall together: see the share of the variance shown.",
        source="Pearson 1901; Hotelling 1933",
    ),
    "pca_variance": About(
        tells="The share of the layer's variance along the two directions in which the picture by PCA shows it.",
        misleads="A small share need not hide classes, and a large one need not show them: variance is no difference "
        "between classes.",
        source="Pearson 1901; Hotelling 1933",
    ),
}
METHODS = ("tsne", "pca")
PERPLEXITY = 30.0
FIRST = 50  # principal components that t-SNE starts from, as in van der Maaten and Hinton, section 4.2 (they took 30)
STEPS, PLACING_STEPS = 750, 250  # of openTSNE: for the picture, and for examples placed on it
REPORT_EVERY = 50

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Picture:
    """Where each example stands. Units of t-SNE mean nothing; those of PCA are the layer's."""

    places: Float64[Tensor, "examples 2"]
    fitted: Bool[Tensor, " examples"]  # the others were placed on the picture afterwards
    variance: float | None  # share of the fitted examples' variance that is shown; null for t-SNE


def picture(
    features: Float[Tensor, "examples units"],
    *,
    method: str = "tsne",
    fitted: Bool[Tensor, " examples"] | None = None,
    perplexity: float = PERPLEXITY,
    seed: int = 0,
    progress: Progress | None = None,
) -> Picture:
    """The examples in two dimensions; the same for the same features and seed.

    `fitted` says to which examples the picture is fitted, such as those of known classes; the others are then placed on
    it one by one, without moving what is there. All, if null. `perplexity` is about how many neighbours t-SNE keeps
    near; `progress` is told its steps done and wanted.
    Raises RepresentationError for features that do not do, a perplexity above a third of the fitted examples, an
    unknown method, and where all fitted examples have the same features.
    """
    check_features(features, len(features))
    if method not in METHODS:
        raise RepresentationError(unknown("method", method, METHODS))
    fitted = torch.ones(len(features), dtype=torch.bool) if fitted is None else fitted.cpu()
    values = features.double().cpu().numpy()
    base = values[fitted.numpy()]
    if len(base) < 3 or bool(constant_units(features[fitted.to(features.device)]).all()):
        raise RepresentationError(
            f"the {len(base)} examples to fit a picture to must be three or more, and not all the same; give others"
        )
    if method == "pca":
        components = PCA(min(2, *base.shape), svd_solver="full").fit(base)
        places = np.zeros((len(values), 2))
        places[:, : components.n_components_] = components.transform(values)
        return Picture(torch.from_numpy(places), fitted, float(components.explained_variance_ratio_.sum()))
    return Picture(torch.from_numpy(_tsne(values, fitted.numpy(), perplexity, seed, progress)), fitted, None)


def _tsne(
    values: np.ndarray, fitted: np.ndarray, perplexity: float, seed: int, progress: Progress | None
) -> np.ndarray:
    from openTSNE import TSNE  # takes a second, which those who only measure need not wait

    base = values[fitted]
    most = (len(base) - 1) / 3
    if not 1 <= perplexity <= most:
        raise RepresentationError(
            f"perplexity {perplexity:g} is not possible with {len(base)} examples; take 1 to {most:g}, or more examples"
        )
    if values.shape[1] > FIRST:
        components = PCA(min(FIRST, len(base)), svd_solver="full").fit(base)
        values, base = components.transform(values), components.transform(base)
    drawing = TSNE(
        perplexity=perplexity,
        neighbors="exact",
        n_jobs=1,  # sums of several threads differ from run to run
        random_state=seed_of("t-SNE", seed) % 2**32,
        callbacks=_teller(progress, STEPS + PLACING_STEPS * (not fitted.all())) if progress else None,
        callbacks_every_iters=REPORT_EVERY,
    ).fit(base)
    places = np.empty((len(values), 2))
    if not fitted.all():
        places[~fitted] = drawing.transform(values[~fitted])
    places[fitted] = drawing  # only now: placing others shifts the whole picture
    return places


def _teller(progress: Progress, wanted: int) -> Callable[..., None]:
    """What openTSNE calls every so many steps; it counts from the start again in each phase."""
    done = count(REPORT_EVERY, REPORT_EVERY)
    return lambda *_: progress(next(done), wanted)
