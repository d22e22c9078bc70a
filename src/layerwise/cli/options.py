"""Options that commands share: how they are completed and read. Nothing here imports torch."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from layerwise.errors import StudyError

StoreOption = Annotated[
    Path, typer.Option("--store", metavar="DIR", help="Folder of finished runs.", rich_help_panel="Running")
]
STORE = Path("layerwise-store")
# For completion, without torch; a test holds them to layerwise.nets.
NET_NAMES = (
    "alexnet40", "alexnet40normal", "alexnet8", "alexnet8he", "lenet5", "lenet5relu", "resnet20", "resnet32", "sharma",
    "small40", "small40normal", "small8", "small8bn", "vgg19narrow",
)  # fmt: skip
PROBE_NAMES = (  # a test holds them to layerwise.probing
    "knn", "linear", "cka", "cka_debiased", "cka_minibatch", "cka_rbf", "cca_mean",
    "cca_squared", "svcca", "pwcca", "procrustes", "procrustes_raw", "procrustes_angular", "rsa",
    "rsa_standardised", "logme", "h_score", "h_score_shrunk", "nleep", "gbc", "transrate",
    "parc", "sfda", "leep", "nce", "spread", "tsne", "pca",
    "inversion", "decoder", "information", "saliency", "drift", "gradient", "reset",
)  # fmt: skip
GROUPS_HELP = (
    "Keep images of one group on one side of train and test: a column of the data, such as person, or, for folder: and "
    "csv:, a regular expression for the files' paths, such as '(P[0-9]+)_'."
)
DUPLICATES_HELP = "Leave out images that are equal pixel for pixel; of those in train and test, train's."
AUGMENT_HELP = (
    "Vary training images, each for itself: crop:PIXELS, flip, jitter:SHARE, such as crop:4,flip,jitter:0.2; with "
    "kornia rotate:DEGREES, scale:SHARE, shear:DEGREES, hue:TURNS, blur:PIXELS too."
)
SCALES = {"demo": "minutes", "paper": "the paper's own design"}
DEVICES = {"auto": "a GPU if there is one", "cpu": "this processor", "cuda": "the GPU"}
PRECISIONS = {  # a test holds their names to layerwise.run
    "float32": "single",
    "float64": "double",
    "bfloat16": "half the bits, where the processor has it",
    "tf32": "single with TF32 products, on GPUs that have it",
}
EXECUTORS = {
    "local": "a process per core",
    "serial": "this process alone",
    "cluster": "the nodes of a Ray cluster, see --address",
}
ADDRESSES = {  # of clusters
    "auto": "the one started on this machine",
    "local": "a private one, of --workers processes",
    "HOST:PORT": "as `ray start --head` printed it",
    "ray://HOST:PORT": "from outside the cluster",
}


def study_names(incomplete: str) -> list[str]:
    """Studies whose names begin so."""
    from layerwise.studies import STUDIES

    return among(STUDIES)(incomplete)


def data_names(incomplete: str) -> list[str]:
    """Kinds of data whose names begin so, with the colon where a path or a name must follow."""
    from layerwise.data import READERS

    return among(name + ":" * (reader.takes_path or name == "hub") for name, reader in READERS.items())(incomplete)


def among(names: Iterable[str]) -> Callable[[str], list[str]]:
    """The completion of a word that is one of these."""
    known = tuple(names)
    return lambda incomplete: [name for name in known if name.startswith(incomplete)]


net_names, precisions = map(among, (NET_NAMES, PRECISIONS))


def probe_names(incomplete: str) -> list[str]:
    """Lists of probes that begin so: the last name of the list is completed."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in among((*PROBE_NAMES, "quick", "all"))(last)]


addresses = among(["auto", "local", "ray://"])


def whole(text: str | int) -> int:
    """The number in an option, or its default; typer names the option."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a whole number") from None


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """The numbers in an option such as `1,5,10`, in ascending order; StudyError with the option where they are none."""
    if text is None:
        return None
    try:
        return tuple(sorted(int(number) for number in text.split(",")))
    except ValueError:
        raise StudyError(f"{option} '{text}' is not a list of whole numbers such as 1,5,10") from None


def open_store(store: Path) -> Any:
    """A store that is there; StudyError where it is not: looking at runs makes no store."""
    from layerwise.store import Store

    if not store.is_dir():
        raise StudyError(f"there is no store {store}; name the folder that runs were trained into")
    return Store(store)
