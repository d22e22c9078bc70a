"""`layerwise probe`, whole: rows, figures, reasons, mistakes; on handwritten digits, in seconds."""

import re
import weakref
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from layerwise import api, cli
from layerwise.cli import options
from layerwise.cli.probe import POOLINGS
from layerwise.data import open_data
from layerwise.errors import LayersError, StudyError
from layerwise.feed import images as scaled
from layerwise.layers import layers
from layerwise.nets import NETS, build
from layerwise.probed import Probed
from layerwise.probes import activations
from layerwise.probes.decoder import Training
from layerwise.probes.drift import gradients
from layerwise.probes.inversion import Search, invert
from layerwise.probes.linear import linear_probes
from layerwise.probes.recovery import Recovered
from layerwise.probing import images, training, words
from layerwise.probing.examine import chosen
from layerwise.probing.examined import Examined, load_examined
from layerwise.probing.look import Look
from layerwise.probing.probes import ALL, PROBES, QUICK, Probe
from layerwise.probing.reconstruction import Reconstruction
from layerwise.probing.representation import Chosen
from layerwise.probing.subject import Asked, Subject, fitted, subject
from layerwise.probing.training import headed
from layerwise.report.probe import FORMS, SECTIONS, figures, scatter
from layerwise.rows import frame, pick
from layerwise.store import Store


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Examined, Path]:
    """Sharma's net, trained for a moment on digits 0-4, and everything that can be probed of it."""
    folder = tmp_path_factory.mktemp("probe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "LESSONS", Training(steps=20))
        patch.setattr(images, "DESCENT", 20)
        found = _probed(folder)
    return found, folder


def _probed(folder: Path) -> Examined:
    return api.probe(
        "sharma", "digits", resize=32, known="0-4", probes="all", examples=30, steps=60, batch_size=20, quiet=True,
        store=folder / "store", out=folder / "out",
    )  # fmt: skip


def looked_at(folder: Path) -> Subject:
    """The net that was probed there, with its images."""
    data, _ = open_data("digits", folder / "store" / "data", resize=32)
    plan = fitted(Asked("sharma", "0-4", examples=30, steps=60, batch_size=20), data)
    return subject(plan, Store(folder / "store"))


def subject_of(labels: torch.Tensor, known: set[int]) -> Subject:
    """Sharma's net, fresh, and an image of each label."""
    net = build("sharma", (1, 32, 32), 5, seed=0)
    drawn = torch.rand(len(labels), 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return Subject(
        name="sharma", kind=NETS["sharma"], net=net.eval(), found=layers(net, drawn[:1]), outputs=5, head=None,
        start=None, run=None, feed=None, images=drawn, labels=labels,
        class_names=tuple(map(str, range(int(labels.max()) + 1))), known=frozenset(known), train_images=drawn[:0],
        train_labels=labels[:0], seed=0,
    )  # fmt: skip


def rows_of(found: Examined, quantity: str) -> pd.DataFrame:
    return pick(found.rows, quantity=quantity)


def test_every_probe_leaves_numbers_or_reasons_and_never_both(probed: tuple[Examined, Path]) -> None:
    rows = probed[0].rows
    assert set(probed[0].plan["probes"]) == set(PROBES)
    assert (rows["value"].isna() == rows["reason"].notna()).all()
    assert np.isfinite(rows["value"].dropna()).all()
    assert not (rows["value"].notna() & (rows["low"] > rows["value"] + 1e-12)).any()
    assert set(probed[0].plan["quantities"]) <= set(rows["quantity"])


def test_rows_are_those_of_the_functions_themselves(probed: tuple[Examined, Path]) -> None:
    """The table's linear accuracy is that of `linear_probes` on activations taken by hand."""
    found, folder = probed
    looked = looked_at(folder)
    unknown = looked.labels >= 5
    features = activations.activations(looked.net, looked.images, found=looked.found)
    expected = linear_probes({name: f[unknown] for name, f in features.items()}, looked.labels[unknown])
    table = rows_of(found, "linear_accuracy")
    table = table[table["group"] == "unknown"].set_index("layer")
    for layer, probe in expected.items():
        assert table.loc[layer, "value"] == probe.accuracy.mean
        assert (table.loc[layer, "low"], table.loc[layer, "high"]) == probe.accuracy.bounds


def test_probed_images_are_not_those_it_learnt_from(probed: tuple[Examined, Path]) -> None:
    looked = looked_at(probed[1])
    seen = {image.numpy().tobytes() for image in looked.feed.parts["train"].images(torch.arange(600))}
    assert not seen & {image.numpy().tobytes() for image in looked.images}
    assert looked.labels.bincount().tolist() == [30] * 10
    assert looked.known == frozenset(range(5))
    assert looked.head == (0, 1, 2, 3, 4)


def test_what_a_reset_leaves_is_told_beside_what_it_loses(probed: tuple[Examined, Path]) -> None:
    """Of the accuracies only their difference was in the rows, so that neither could be had back."""
    (before,) = rows_of(probed[0], "accuracy_before_reset")["value"]
    after = rows_of(probed[0], "accuracy_after_reset")
    assert set(after["condition"]) == {"fresh", "rewound", "matched"}
    for kind, left in after.groupby("condition"):
        lost = rows_of(probed[0], f"accuracy_lost_{kind}")
        assert left["layer"].tolist() == lost["layer"].tolist()
        assert (before - left["value"]).to_numpy() == pytest.approx(lost["value"].to_numpy())
        assert (before - left["high"]).to_numpy() == pytest.approx(lost["low"].to_numpy(), nan_ok=True)
    page = unescape((probed[1] / "out" / "report.html").read_text()).replace("\N{NO-BREAK SPACE}", " ")
    assert f"Accuracy before reset {100 * before:.1f} %</b>" in page
    plan = probed[0].plan
    (figure,) = figures(after, {"accuracy_after_reset": plan["quantities"]["accuracy_after_reset"]}, plan["layers"])
    assert set(figure.table["series"]) == {"fresh", "rewound", "matched"}


def test_a_picture_says_how_much_of_the_variance_it_shows(probed: tuple[Examined, Path]) -> None:
    """PCA's caption sends the reader to a share that was nowhere. The places are true to scale, and have it in them."""
    shares = rows_of(probed[0], "pca_variance").set_index("layer")["value"]
    assert list(shares.index) == probed[0].plan["layers"]
    assert shares.between(0, 1, inclusive="right").all()
    assert shares["classifier"] < 1
    titles = list(probed[0].plan["quantities"])
    assert titles.index("pca_variance") == titles.index("pca") + 1
    told = probed[0].plan["quantities"]["pca_variance"]
    (figure,) = figures(rows_of(probed[0], "pca_variance"), {"pca_variance": told}, list(shares.index))
    assert figure.table["value"].tolist() == shares.tolist()


def test_saliency_says_that_it_is_an_estimate() -> None:
    told = PROBES["saliency"].quantities["optimal_brain_damage"].told()
    assert told["misleads"].endswith(
        "Of more than 4 classes it is an estimate, from 4 random mixtures of the outputs for each image."
    )


def test_gradients_are_taken_at_the_steps_of_drift(probed: tuple[Examined, Path]) -> None:
    """They were those of the final weights only. At the last step they are the net's own, by the function itself."""
    found, folder = probed
    looked = looked_at(folder)
    images, classes = headed(looked)
    for quantity in ("gradient_norm", "signal_to_noise"):
        table = rows_of(found, quantity)
        assert sorted(set(table["step"])) == sorted(set(rows_of(found, "distance")["step"]))
        last = table[table["step"] == 60].set_index(["layer", "part"])["value"]
        for one in gradients(looked.net, looked.found, images, classes):
            if one.quantity == quantity:
                assert last[one.layer, one.part] == pytest.approx(one.value, rel=1e-5)
    first, *others = figures(table, {quantity: found.plan["quantities"][quantity]}, found.plan["layers"])
    assert [first.title, *(one.title for one in others)] == [
        f"Signal to noise, of {part}" for part in ("weights", "biases", "all")
    ]
    assert len(first.table) == table["step"].nunique() * len(found.plan["layers"])


def test_similarity_has_both_nets_and_itself_is_1(probed: tuple[Examined, Path]) -> None:
    table = rows_of(probed[0], "cka")
    assert set(table["other_net"]) == {"sharma", "X*"}
    own = table[(table["other_net"] == "sharma") & (table["layer"] == table["other_layer"])]
    assert own["value"].to_numpy() == pytest.approx(1, abs=1e-6)


def test_the_report_has_a_figure_and_a_caption_for_each_quantity(probed: tuple[Examined, Path]) -> None:
    html = (probed[1] / "out" / "report.html").read_text()
    shown = unescape(html).replace("\N{NO-BREAK SPACE}", " ")
    for name, told in probed[0].plan["quantities"].items():
        assert told["section"] in SECTIONS
        assert told["form"] in {*FORMS, "whole"}, name
        if rows_of(probed[0], name)["value"].notna().any():
            assert told["misleads"] in shown, name
    assert len(html) < 3e6


def test_the_same_probe_again_trains_nothing_and_gives_the_same_rows(probed: tuple[Examined, Path]) -> None:
    found, folder = probed
    again = api.probe(
        "sharma", "digits", resize=32, known="0-4", probes="knn,linear,cka,logme", examples=30, steps=60,
        batch_size=20, quiet=True, store=folder / "store",
    )  # fmt: skip
    assert again.plan["totals"]["missing"] == 0
    here = found.rows[found.rows["quantity"].isin(again.rows["quantity"].unique())].reset_index(drop=True)
    pd.testing.assert_frame_equal(here, again.rows)


def test_a_folder_reads_back(probed: tuple[Examined, Path]) -> None:
    back = load_examined(probed[1] / "out")
    pd.testing.assert_frame_equal(back.rows, probed[0].rows)
    assert back.pictures == probed[0].pictures
    assert {f"{probe}-{layer:02}" for probe in ("inversion", "decoder") for layer in (1, 2)} <= set(back.pictures)
    assert back.answer == probed[0].answer


def test_weights_from_a_file_have_no_start_and_no_way_through_training(tmp_path: Path) -> None:
    net = build("sharma", (1, 32, 32), 10, seed=3)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    found = api.probe(
        f"sharma@{tmp_path / 'w.safetensors'}", "digits", resize=32, known="0-9",
        probes="knn,leep,drift,gradient,reset", examples=12, store=tmp_path / "store", quiet=True,
    )  # fmt: skip
    drift = rows_of(found, "drift")
    assert drift["reason"].item() == (
        "sharma@w.safetensors has its weights from elsewhere, and how they came about is not known; "
        "name a net without weights, and it is trained here"
    )
    pulls = rows_of(found, "gradient_norm")
    assert pulls["value"].notna().all()
    assert pulls["step"].isna().all()
    told = found.plan["quantities"]["gradient_norm"]
    (figure,) = figures(pulls, {"gradient_norm": told}, found.plan["layers"])
    assert set(figure.table["series"]) == {"weights", "biases", "all"}
    rewound = rows_of(found, "accuracy_lost_rewound")
    assert rewound["value"].isna().all()
    assert rewound["reason"].notna().all()
    assert set(rows_of(found, "knn_accuracy")["group"]) == {"all"}
    assert found.plan["runs"] == []


def test_a_net_of_ones_own_is_probed_as_one_with_a_name(tmp_path: Path) -> None:
    net = build("sharma", (1, 32, 32), 10, seed=3)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    given = {
        "resize": 32,
        "known": "0-9",
        "probes": "knn,logme,cka,reset",
        "examples": 12,
        "store": tmp_path / "store",
        "quiet": True,
    }
    named = api.probe(f"sharma@{tmp_path / 'w.safetensors'}", "digits", **given)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    own = api.probe(net, "digits", **given, mean=NETS["sharma"].mean, std=NETS["sharma"].std)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert set(own.rows["net"]) == {"Sequential"}
    drawn = own.rows["quantity"].str.startswith(("accuracy_lost", "accuracy_after"))
    same = ~drawn & (own.rows["other_net"].fillna("") != "X*")
    for column in ("layer", "quantity", "value", "low", "high"):
        pd.testing.assert_series_equal(own.rows.loc[same, column], named.rows.loc[same, column])
    lost = own.rows[own.rows["quantity"] == "accuracy_lost_fresh"]
    assert lost["value"].notna().all()
    assert "Sequential" in own.plan["provenance"]["command"]


def test_a_net_that_cannot_be_made_fresh_says_which_module(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.by

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), Scaled(), nn.Linear(5, 10))
    found = api.probe(net, "digits", probes="cka,knn", examples=12, store=tmp_path / "store", quiet=True)
    assert rows_of(found, "knn_accuracy")["value"].notna().any()
    assert found.rows["reason"].dropna().unique().tolist() == [
        "module '2' (Scaled) has weights and no reset_parameters()"
    ]


def test_all_of_a_small_class_is_probed_where_nothing_is_trained(tmp_path: Path) -> None:
    """A class of no more images than are probed left none to train on, and was refused though nothing is trained."""
    save_file(build("sharma", (1, 32, 32), 10, seed=3).state_dict(), tmp_path / "w.safetensors")
    labels = np.repeat([0, 1, 2], [40, 9, 6])
    np.savez(
        tmp_path / "d.npz", images=np.random.default_rng(0).integers(0, 255, (55, 32, 32), np.uint8), labels=labels
    )
    found = api.probe(
        f"sharma@{tmp_path / 'w.safetensors'}", f"npz:{tmp_path / 'd.npz'}", probes="knn", examples=20,
        store=tmp_path / "store", quiet=True,
    )  # fmt: skip
    assert {("images looked at", "35"), ("pooling of activations", "mean")} <= set(found.plan["facts"])
    assert rows_of(found, "knn_accuracy")["value"].notna().any()


def test_a_net_is_trained_on_all_but_a_quarter_of_the_writers(tmp_path: Path) -> None:
    """As few writers as one image a class takes were left to train on, and the others were probed."""
    writers, labels = np.repeat(np.arange(20), 10), np.tile(np.arange(5), 40)
    pixels = np.random.default_rng(0).integers(0, 255, (200, 32, 32), np.uint8)
    np.savez(tmp_path / "d.npz", images=pixels, labels=labels, writer=writers)
    data, _ = open_data(f"npz:{tmp_path / 'd.npz'}", tmp_path)
    plan = fitted(Asked("sharma"), data)
    assert (plan.parts.by, len(plan.parts.held_out)) == ("writer", 5)


def test_nets_that_are_compared_see_the_same_images(tmp_path: Path) -> None:
    save_file(build("sharma", (1, 32, 32), 10, seed=3).state_dict(), tmp_path / "w.safetensors")
    other = f"sharma@{tmp_path / 'w.safetensors'}"
    found = api.probe(
        "sharma", "digits", resize=32, probes="cka", examples=20, steps=2, against=other, store=tmp_path / "store",
        quiet=True,
    )  # fmt: skip
    table = rows_of(found, "cka")
    assert set(table["other_net"]) == {"sharma", "sharma@w.safetensors"}
    assert table["value"].notna().all()


def test_layers_stand_in_forward_order_whichever_is_noted_first(probed: tuple[Examined, Path]) -> None:
    again = api.probe(
        "sharma", "digits", resize=32, known="0-4", probes="leep,saliency", examples=30, steps=60, batch_size=20,
        quiet=True, store=probed[1] / "store",
    )  # fmt: skip
    assert again.layers["layer"].tolist() == ["conv1", "conv2", "classifier"]


def test_a_probe_into_the_same_folder_leaves_nothing_stale(probed: tuple[Examined, Path], tmp_path: Path) -> None:
    probed[0].save(tmp_path / "out")
    assert list((tmp_path / "out" / "pictures").glob("*.png"))
    again = api.probe(
        "sharma", "digits", resize=32, known="0-4", probes="knn", examples=30, steps=60, batch_size=20, quiet=True,
        store=probed[1] / "store", out=tmp_path / "out",
    )  # fmt: skip
    assert load_examined(tmp_path / "out").pictures == {} == again.pictures
    assert not list((tmp_path / "out" / "pictures").glob("*.png"))


def test_a_probe_that_fails_loses_no_other(
    probed: tuple[Examined, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(_look: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(PROBES, "linear", Probe(fails, PROBES["linear"].quantities))
    found = api.probe(
        "sharma", "digits", resize=32, known="0-4", probes="linear,knn", examples=30, steps=60, batch_size=20,
        quiet=True, store=probed[1] / "store",
    )  # fmt: skip
    assert found.plan["failures"] == ["probe linear: RuntimeError: out of memory"]
    assert rows_of(found, "knn_accuracy")["value"].notna().all()


def test_a_layer_without_features_has_a_reason_in_every_probe(probed: tuple[Examined, Path]) -> None:
    found = api.probe(
        "sharma", "digits", resize=32, known="0-4", probes="knn,linear,cka,logme,spread", pooling="cls", examples=30,
        steps=60, batch_size=20, quiet=True, store=probed[1] / "store",
    )  # fmt: skip
    for quantity in ("knn_accuracy", "linear_accuracy", "cka", "logme", "spread"):
        rows = rows_of(found, quantity)
        assert set(rows[rows["reason"].notna()]["layer"].dropna()) == {"conv1", "conv2"}, quantity
        assert set(rows[rows["value"].notna()]["layer"]) == {"classifier"}, quantity
    lacking = rows_of(found, "cka")
    assert set(lacking[lacking["layer"].isna()]["other_layer"]) == {"conv1", "conv2"}  # of the untrained net


def test_a_head_of_other_classes_is_a_reason(tmp_path: Path) -> None:
    save_file(build("sharma", (1, 32, 32), 7, seed=3).state_dict(), tmp_path / "w.safetensors")
    found = api.probe(
        f"sharma@{tmp_path / 'w.safetensors'}", "digits", resize=32, probes="reset", examples=5,
        store=tmp_path / "store", quiet=True,
    )  # fmt: skip
    assert found.rows["reason"].tolist() == [
        "the head of sharma@w.safetensors has 7 outputs, and which classes they are is not known; "
        "if they are among these, name the 7 with --known"
    ]


def test_the_decoders_advice_in_words() -> None:
    """Layers whose interval lies above 0 were recommended, however few the images: the rule leaves them undecided."""
    verdicts = {
        ("F*", "conv1", "5"): "undecided", ("F*", "conv1", "6"): "retrain", ("F*", "conv2", "5"): "retrain",
        ("F*", "conv2", "6"): "keep", ("X*", "conv1", "5"): "retrain", ("X*", "conv1", "6"): "retrain",
        ("X*", "conv2", "5"): "undecided", ("X*", "conv2", "6"): "keep",
    }  # fmt: skip
    rows = frame(
        {"quantity": "decoder_advice", "treatment": net, "layer": layer, "class_name": name, "condition": verdict,
         "value": 0.2, "low": 0.1, "high": 0.3}
        for (net, layer, name), verdict in verdicts.items()
    )  # fmt: skip
    assert words.findings(rows) == (
        "The decoder would have these retrained, of 4 cases of a layer and an unknown class: conv1 for 6, conv2 for 5. "
        "1 it would keep, and 1 are undecided. It would have 1 of the same retrained in the untrained net.",
    )


def test_what_kept_layers_from_being_read_is_the_answer() -> None:
    """Bug: with one class of a single image nothing was read, and the answer was that the table has all."""
    why = "5 folds are not possible: of class 4 there are 1 examples"
    refused = {"quantity": "linear_accuracy", "treatment": "F*", "reason": why}
    rows = frame([*({**refused, "layer": name} for name in ("conv1", "conv2")), {"quantity": "logme", "value": 0.1}])
    assert words.answer(rows, ["conv1", "conv2"]) == (
        f"2 layers were looked at, and none could be read: {why}. Leave classes of few images out with --classes."
    )
    assert words.answer(rows[rows["quantity"] == "logme"], ["conv1", "conv2"]).endswith("has what was asked for.")


@pytest.mark.parametrize(("images_each", "verdict", "cases"), [(4, "undecided", "none"), (5, "retrain", "conv1 for 2")])
def test_too_few_images_recommend_nothing(images_each: int, verdict: str, cases: str) -> None:
    """Of the known classes a tenth is lost, of the unknown one half: far beyond them, with an interval above 0."""
    labels = torch.arange(3).repeat_interleave(images_each)
    errors = torch.where(labels == 2, 5.0, 1.0).double()
    none = torch.zeros(0, 1, 1, 1)
    found = Recovered("conv1", (0, 1), labels, errors.expand(5, -1), 0 * errors[None], 0 * errors + 10, none)
    look = Look(subject_of(labels, known={0, 1}), "mean", 2**20)
    images._note_advice(look, found, "F*")
    ((low, condition),) = [(row["low"], row["condition"]) for row in look.rows]
    assert (low, condition) == (pytest.approx(0.4), verdict)
    (sentence,) = words.findings(frame(look.rows))
    assert f"of 1 cases of a layer and an unknown class: {cases}. 0 it would keep" in sentence


def test_classes_without_an_inverted_image_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 classes ten had no row and no reason: the images inverted are 20."""
    monkeypatch.setattr(images, "DESCENT", 0)
    for classes, reasons in (
        (20, []),
        (30, ["10 of the 30 classes are left out: 20 images are inverted; name fewer classes with --classes"]),
    ):
        look = Look(subject_of(torch.arange(classes), known=set()), "mean", 2**20)
        images.inversion(look)
        rows = pick(frame(look.rows), quantity="inversion_image_error")
        assert rows["class_name"].nunique() == 20
        assert rows["reason"].dropna().tolist() == reasons


def test_layers_and_priors_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: `invert` of that layer with those priors, of the net and of the untrained one, and their difference."""
    monkeypatch.setattr(images, "DESCENT", 3)
    subject = subject_of(torch.arange(10) % 2, known=set())
    look = Look(subject, "mean", 2**20, reconstruction=Reconstruction("classifier,conv2", 0.1, 0.01))
    images.inversion(look)
    rows = frame(look.rows)
    left_out = "left out: 2 of the 3 layers are looked at; name others, or all, with --layers"
    assert pick(rows, layer="conv1")[["quantity", "reason"]].to_numpy().tolist() == [
        ["inversion_image_error", left_out]
    ]
    mean, std = subject.kind.pixels(1)
    search = Search(3, total_variation=0.1, norm=0.01)
    turns = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])  # four of each class
    own, fresh = (
        invert(net, subject.found, subject.images[turns], mean=mean, std=std, at=[2, 3], search=search)
        for net in (subject.net, look.untrained)
    )
    for one, other in zip(own, fresh, strict=True):
        here = pick(rows, layer=one.layer, class_name="0")
        kept = [(~some.diverged & (torch.arange(8) % 2 == 0)) for some in (one, other)]
        by_hand = [some.image_error[rows].mean().item() for some, rows in zip((one, other), kept, strict=True)]
        assert pick(here, quantity="inversion_image_error")["value"].tolist() == pytest.approx(by_hand)
        difference = pick(here, quantity="inversion_minus_untrained")
        apart = (one.image_error - other.image_error)[kept[0] & kept[1]].mean().item()
        assert difference["value"].tolist() == pytest.approx([apart], abs=1e-6)
        assert difference[["low", "high"]].notna().all(axis=None)


def test_layers_and_priors_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "DESCENT", 2)
    save_file(build("sharma", (1, 32, 32), 10, seed=3).state_dict(), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    words = (
        "probe sharma@w.safetensors digits --resize 32 --probes inversion --layers conv2 --total-variation 0.25 "
        "--norm 0.5 --examples 4 --store store --out out"
    )
    monkeypatch.setattr("sys.argv", ["layerwise", *words.split()])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert "inversion" in capsys.readouterr().out
    found = load_examined(tmp_path / "out")
    assert found.plan["facts"][-3:] == [
        ["layers inverted and decoded", "conv2"],
        ["weight of total variation in inversions", "0.25"],
        ["weight of the norm in inversions", "0.5"],
    ]
    assert found.plan["provenance"]["command"] == f"layerwise {words}"
    assert set(rows_of(found, "inversion_image_error").dropna(subset=["value"])["layer"]) == {"conv2"}


def test_rows_of_groups_are_copied_a_layer_at_a_time() -> None:
    """Features may lie in files: known classes' rows of all layers were copied out of them at once."""
    features = {f"layer{k}": torch.randn(6, 2) for k in range(4)}
    rows = torch.tensor([True, False, True, True, False, False])
    some, copies = Chosen(features, rows), weakref.WeakSet()
    for name in some:
        assert torch.equal(some[name], features[name][rows])
        assert some[name] is some[name]
        copies.add(some[name])
        assert len(copies) == 1
    assert Chosen(features, rows | True)["layer0"] is features["layer0"]


def test_probes_keep_to_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, int] = {}

    def told(name: str, made: object) -> Callable[..., object]:
        return lambda *_given, memory, **_more: given.update({name: memory}) or made

    monkeypatch.setattr(training, "similarities", told("drift", []))
    monkeypatch.setattr(images, "recover", told("decoder", {}))
    monkeypatch.setattr(images, "some_layers", lambda *_: [])
    api.probe(
        "sharma", "digits", resize=32, probes="drift,decoder", examples=6, steps=2, memory=7, quiet=True,
        store=tmp_path / "store",
    )  # fmt: skip
    assert given == {"drift": 7 * 2**20, "decoder": 7 * 2**20}


def test_no_unknown_class_is_a_reason_for_no_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LESSONS", Training(steps=2))
    found = api.probe(
        "sharma", "digits", resize=32, probes="decoder", examples=6, steps=2, store=tmp_path / "store", quiet=True
    )
    assert rows_of(found, "decoder_advice")["reason"].tolist() == [
        "no class is unknown to the net; name those that it knows with --known, and the others are"
    ]
    assert rows_of(found, "decoder_normalised_error")["value"].notna().any()
    assert found.findings == ()


def test_pixels_are_scaled_as_the_net_wants_them(tmp_path: Path) -> None:
    data, _ = open_data("digits", tmp_path, resize=32)
    where = np.arange(3)
    assert torch.equal(scaled(data, where, "sharma", "float32"), scaled(data, where, "lenet5", "float32"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"probes": "knn,liner"}, StudyError, "unknown probe 'liner'; did you mean 'linear'?"),
        ({"probes": " , "}, StudyError, "--probes names none; write a list such as knn,linear,cka, or quick, or all"),
        ({"known": "3"}, StudyError, "1 class tells nothing apart; name at least 2"),
        ({"known": "0-4", "classes": "1-9"}, StudyError, "--known 0-4 has class '0', which --classes 1-9 leaves out"),
        ({"examples": 0}, StudyError, "--examples 0 is not possible; the least is 1"),
        ({"rate": 0.0}, StudyError, "--rate 0.0 is not possible; it is a number above 0"),
        ({"pooling": "men"}, StudyError, "unknown pooling 'men'; did you mean 'mean'?"),
        ({"memory": 0}, StudyError, "--memory 0 is not possible; the least is 1, in megabytes"),
        ({"mean": (0.5,)}, StudyError, "mean and std are for a net of your own; 'sharma' has its own"),
        ({"probes": "decoder", "layers": "conv1,conv9"}, StudyError,
         "unknown layer 'conv9'; did you mean 'conv2'? (known: all, classifier, conv1, conv2)"),
        ({"probes": "decoder", "layers": ","}, StudyError, "--layers names none; write a list such as conv1,conv2, or"),
        ({"probes": "knn", "layers": "all"}, StudyError,
         "--layers is for inversion and decoder, which --probes does not name"),
        ({"probes": "decoder", "norm": 1.0}, StudyError, "--norm is for inversion, which --probes does not name"),
        ({"total_variation": -0.5}, StudyError, "--total-variation -0.5 is not possible; it is a number from 0 up"),
        ({"norm": float("inf")}, StudyError, "--norm inf is not possible; it is a number from 0 up"),
        ({"resize": 28}, LayersError, "net 'sharma' takes 32x32 grey images, not 28x28"),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        api.probe("sharma", "digits", **{"resize": 32, "quiet": True, "store": tmp_path / "store", **options})
    assert str(raised.value).startswith(message)


def test_names_for_completion_are_those_there_are() -> None:
    assert tuple(PROBES) == options.PROBE_NAMES
    assert set(POOLINGS) == set(activations.POOLINGS)
    assert options.probe_names("knn,lin") == ["knn,linear"]
    assert set(QUICK) <= set(ALL) == set(PROBES)


def test_lists_of_probes() -> None:
    assert chosen("linear,knn") == ("knn", "linear")
    assert chosen("quick,drift") == tuple(name for name in PROBES if name in {*QUICK, "drift"})
    assert chosen("all") == tuple(PROBES)


def test_the_commands(
    probed: tuple[Examined, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["layerwise", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr().out

    code, out = run("probes")
    assert code == 0
    assert all(name in out for name in PROBES)
    code, out = run("report", str(probed[1] / "out"))
    assert code == 0
    assert probed[0].answer in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("conv", "class"))] == [
        "conv1", "conv2", "classifier",
    ]  # fmt: skip


def test_a_browser_draws_it(probed: tuple[Examined, Path], drawn: Callable[[Path], str]) -> None:
    page = drawn(probed[1] / "out" / "report.html")
    assert len(re.findall('<svg [^>]*class="marks"', page)) == page.count("data-chart=") > len(PROBES)


def test_a_scatter_of_many_layers_shows_images_of_every_class() -> None:
    """Images lie class after class: those with the lowest numbers were all of the first classes."""
    names = [f"layer{k}" for k in range(100)]  # room for 60 images each
    mixed = np.random.default_rng(0).permutation(200)
    rows = frame(
        {"layer": layer, "quantity": "tsne", "unit": int(unit), "class_name": f"class{unit // 20}", "group": "all",
         "part": part, "value": 1.0}
        for layer in names for unit in mixed for part in ("first", "second")
    )  # fmt: skip
    told = PROBES["tsne"].quantities["tsne"].told()
    (figure,) = scatter(rows, told, names)
    assert figure.table.groupby("layer")["unit"].nunique().tolist() == [60] * 100
    assert set(figure.table["class_name"]) == {f"class{k}" for k in range(10)}


def test_in_a_notebook_it_shows_the_reports_own_figures(probed: tuple[Examined, Path]) -> None:
    found = probed[0]
    assert isinstance(found, Probed)
    drawn = list(figures(found.rows, found.plan["quantities"], found.plan["layers"]))
    assert len(found.figures) == len(drawn) > 20
    assert next(iter(found.figures)) == drawn[0].title
    html = found._repr_html_()
    assert html.count("data:image/svg+xml;base64,") == 1
    assert not re.search("<script|https?:", html)
    assert all(f"<td>{layer}</td>" in html for layer in found.plan["layers"])
