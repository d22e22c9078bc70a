"""The probes by name: what measures each, and how each of its quantities is told."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from layerwise import information
from layerwise.about import About
from layerwise.probes import drift as drifting
from layerwise.probes import embedding as embeddings
from layerwise.probes import inversion as inversions
from layerwise.probes import linear as linear_probe
from layerwise.probes import neighbours, recovery, robustness
from layerwise.probes import spread as spreads
from layerwise.probes.scores import FROM_PROBABILITIES, SCORES
from layerwise.probes.similarity import MEASURES
from layerwise.probing import classes, images, representation, training, units
from layerwise.probing.look import Look


@dataclass(frozen=True)
class Quantity:
    """How a quantity is told; form and section are those of its figure, see `layerwise.report.probe`."""

    title: str
    form: str
    section: str
    about: About
    unit: str = "number"  # or percent

    def told(self) -> dict[str, str]:
        """As plan.json has it."""
        values = asdict(self)
        return {**{name: value for name, value in values.items() if name != "about"}, **values["about"]}


@dataclass(frozen=True)
class Probe:
    """What is measured at once, and the quantities that come of it."""

    measure: Callable[[Look], None]
    quantities: dict[str, Quantity]

    def abouts(self) -> Iterator[tuple[str, About]]:
        """Each thing that the probe tells, once."""
        seen: set[str] = set()
        for quantity in self.quantities.values():
            if quantity.about.tells not in seen:
                seen.add(quantity.about.tells)
                yield quantity.title, quantity.about


SPELT = {
    "cka": "CKA", "rbf": "RBF", "cca": "CCA", "svcca": "SVCCA", "pwcca": "PWCCA", "rsa": "RSA", "logme": "LogME",
    "h": "H", "nleep": "N-LEEP", "gbc": "GBC", "transrate": "TransRate", "parc": "PARC", "sfda": "SFDA",
    "leep": "LEEP", "nce": "NCE", "procrustes": "Procrustes", "tsne": "t-SNE", "pca": "PCA",
}  # fmt: skip


def _title(name: str) -> str:
    """A quantity's name in words, as its paper spells it.

    >>> _title("cka_debiased"), _title("distance_to_final")
    ('CKA debiased', 'Distance to final')
    """
    words = " ".join(SPELT.get(word, word) for word in name.split("_"))
    return words if words.startswith("t-SNE") else words[0].upper() + words[1:]


def _accuracy(name: str, title: str, about: About) -> dict[str, Quantity]:
    return {
        f"{name}_accuracy": Quantity(f"{title} accuracy", "by_layer", "features", about, "percent"),
        f"{name}_accuracy_of_class": Quantity(
            f"{title} accuracy of each class", "by_class", "classes", about, "percent"
        ),
    }


def _titles(
    section: str, form: str, abouts: dict[str, About], unit: str = "number", prefix: str = ""
) -> dict[str, Quantity]:
    """Quantities whose titles are their names in words."""
    return {
        f"{prefix}{name}": Quantity(_title(f"{prefix}{name}"), form, section, about, unit)
        for name, about in abouts.items()
    }


PROBES: dict[str, Probe] = {
    "knn": Probe(representation.knn, _accuracy("knn", "Nearest neighbours'", neighbours.ABOUT["knn"])),
    "linear": Probe(representation.linear, _accuracy("linear", "Linear probe's", linear_probe.ABOUT["linear"])),
    **{
        name: Probe(
            partial(representation.similarity, name=name),
            {name: Quantity(_title(name), "pairs", "similarity", measure.about)},
        )
        for name, measure in MEASURES.items()
    },
    **{
        name: Probe(
            partial(representation.score, name=name),
            {name: Quantity(_title(name), "whole" if name in FROM_PROBABILITIES else "by_layer", "scores", about)},
        )
        for name, (_, about) in SCORES.items()
    },
    "spread": Probe(classes.spread, _titles("classes", "by_class", spreads.ABOUT)),
    "tsne": Probe(
        partial(classes.embedding, method="tsne"),
        {"tsne": Quantity(_title("tsne"), "scatter", "classes", embeddings.ABOUT["tsne"])},
    ),
    "pca": Probe(
        partial(classes.embedding, method="pca"),
        {
            "pca": Quantity(_title("pca"), "scatter", "classes", embeddings.ABOUT["pca"]),
            "pca_variance": Quantity(
                "PCA: variance shown", "by_layer", "classes", embeddings.ABOUT["pca_variance"], "percent"
            ),
        },
    ),
    "inversion": Probe(images.inversion, _titles("images", "by_class", inversions.ABOUT, prefix="inversion_")),
    "decoder": Probe(images.decoder, _titles("images", "by_class", recovery.ABOUT, prefix="decoder_")),
    "information": Probe(
        units.informative,
        {"information": Quantity("Information about the class, nats", "ticks", "units", information.ABOUT)},
    ),
    "saliency": Probe(units.saliency, _titles("units", "ticks", units.ABOUT)),
    "drift": Probe(
        training.drift,
        _titles("training", "by_step", {n: a for n, a in drifting.ABOUT.items() if n not in drifting.GRADIENTS}),
    ),
    "gradient": Probe(
        training.gradient,
        _titles("training", "by_step", {name: drifting.ABOUT[name] for name in drifting.GRADIENTS}),
    ),
    "reset": Probe(
        training.reset,
        {
            **_titles("training", "by_layer", robustness.ABOUT, unit="percent", prefix="accuracy_lost_"),
            **{
                name: Quantity(_title(name), form, "training", robustness.ACCURACIES[name], "percent")
                for name, form in (("accuracy_after_reset", "by_layer"), ("accuracy_before_reset", "whole"))
            },
        },
    ),
}
QUICK = ("knn", "linear", "cka_debiased", "logme", "h_score_shrunk", "leep", "nce")
ALL = tuple(PROBES)


def quantities(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the probes of these names measure, as plan.json has it."""
    return {name: quantity.told() for probe in names for name, quantity in PROBES[probe].quantities.items()}
