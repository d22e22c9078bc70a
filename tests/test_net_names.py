"""Names of nets from elsewhere: what they mean, what of them is in a run's key, and how each mistake is told."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from layerwise.api import probe, train_all
from layerwise.cli import app  # noqa: F401 (loads the command's file)
from layerwise.data.dataset import DataSet
from layerwise.errors import LayersError, LayerwiseError, StudyError
from layerwise.feed import scaled
from layerwise.groups import GRANULARITIES
from layerwise.layers import cut, layers
from layerwise.nets import FORMS, architecture, build, head, named, own_size
from layerwise.nets.from_torchvision import imported
from layerwise.nets.places import place, places
from layerwise.nets.weights import net_state, parse_net, read_weights
from layerwise.progress import Quiet
from layerwise.run import Recipe, Run, key
from layerwise.tasks import Parts, Task
from layerwise.treatment import Treatment

shown = sys.modules["layerwise.cli.nets"]  # in the package its name is the command's

MINE = '''
import torch
from torch import nn

MEAN, STD, SIZE = (0.25,), (0.5,), 16

def small(outputs, channels=1, size=16):
    """A small net of my own."""
    side = (size - 3) // (size // 8) + 1
    maps = nn.Conv2d(channels, 4, 3, stride=size // 8)
    return nn.Sequential(maps, nn.ReLU(), nn.Flatten(), nn.Linear(4 * side**2, outputs))

def plain(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, outputs))

def wrong(outputs):
    return 3

def wide(outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 7))

def broken(outputs):
    raise ValueError("not today")
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


@pytest.fixture
def libraries() -> None:
    """Skips, by name, where a library of nets is not installed."""
    for library in ("timm", "torchvision", "transformers"):
        try:
            imported(library)
        except StudyError:
            pytest.skip(f"{library} is not installed")


def test_what_nets_prints_and_completes_is_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(shown.GRANULARITIES) == GRANULARITIES
    shown.nets("resnet20", granularity="block", classes=5)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["1", "conv1", "464", "884,736", "16", "x", "32", "x", "32"]  # 2 x 3 x 9 x 16 x 32 x 32
    assert lines[2][:3] == ["2", "layer1.0", "4,672"]
    assert lines[11] == ["11", "linear", "325", "640", "5,", "the", "head"]  # 2 x 64 x 5
    assert [line[1] for line in lines[1:12]] == [
        "conv1", *(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)), "linear"
    ]  # fmt: skip
    with pytest.raises(StudyError, match=r"^--classes 0 is not possible; the least is 1$"):
        shown.nets("resnet20", classes=0)
    shown.nets()
    told = capsys.readouterr().out
    assert all(form in told for form in FORMS)


# ---------------------------------------------------------------- a user's own file


def test_a_name_follows_the_content_of_the_file_and_not_its_place(mine: Path, tmp_path: Path) -> None:
    name = named(f"{mine}:small")
    assert re.fullmatch(r"mine\.py:small#[0-9a-f]{16}", name)
    (tmp_path / "there").mkdir()
    shutil.copy(mine, tmp_path / "there")
    assert named(f"{tmp_path}/there/mine.py:small") == name == named(name)
    assert named(f"{mine}:plain").partition("#")[2] == name.partition("#")[2]
    mine.write_text(MINE + "\n")
    assert named(f"{mine}:small") != name
    assert place(name) == tmp_path / "there" / "mine.py"
    assert places([name, "lenet5"]) == {name: tmp_path / "there" / "mine.py"}


def test_its_function_is_given_what_it_names_and_its_constants_are_its_pixels(mine: Path) -> None:
    name = named(f"{mine}:small")
    net = build(name, (3, 16, 16), 5, 0)
    assert [tuple(p.shape) for p in net.parameters()] == [(4, 3, 3, 3), (4,), (5, 4 * 7 * 7), (5,)]
    found = architecture(name)
    assert (found.mean, found.std, found.size, found.summary) == ((0.25,), (0.5,), 16, "A small net of my own.")
    assert own_size(name) == 16
    assert own_size("lenet5") is None
    assert head(name, (1, 16, 16)) == {"3.weight": 0, "3.bias": 0}
    plain = build(f"{mine}:plain", (1, 16, 16), 5, 0)
    assert plain(torch.zeros(2, 1, 16, 16)).shape == (2, 5)


def test_its_weights_come_from_the_seed_alone(mine: Path) -> None:
    name = named(f"{mine}:small")
    one, same, other = (build(name, (1, 16, 16), 5, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


CONTRACT = "a function of the number of outputs, and of channels and size if it names them, that gives an nn.Module"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("none", f"'FILE' has no function 'none'; it is to be {CONTRACT}"),
        ("MEAN", f"'FILE' has no function 'MEAN'; it is to be {CONTRACT}"),
        ("wrong", f"'FILE' gives int, not a net; it is to be {CONTRACT}"),
        ("wide", "net 'NAME' gives shape (1, 7) for one image, not a row of 5 outputs"),
        ("broken", "net 'NAME' does not take 16x16 images of 1 channel (ValueError: not today)"),
        ("2", f"net 'FILE:2' names no function; write FILE.py:FUNCTION, {CONTRACT}"),
    ],
)
def test_a_function_that_gives_no_net_is_refused_with_the_contract(mine: Path, function: str, message: str) -> None:
    with pytest.raises(LayerwiseError) as error:
        build(f"{mine}:{function}", (1, 16, 16), 5, 0)
    name = named(f"{mine}:{function}") if function != "2" else ""
    assert str(error.value) == message.replace("NAME", name).replace("'FILE", f"'{mine}")


def test_images_of_another_size_come_with_the_cure(mine: Path) -> None:
    with pytest.raises(LayersError, match=r"does not take 20x20 images of 1 channel \(RuntimeError: .+\)") as error:
        build(f"{mine}:plain", (1, 20, 20), 5, 0)
    assert str(error.value).endswith("; its own are 16x16: pass --resize 16")


def test_a_net_for_colour_says_so_of_grey_images(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\n\ndef colour(outputs):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs))\n"
    )
    with pytest.raises(LayersError, match=r"images of 1 channel \(RuntimeError: .+\); it is for colour images: a func"):
        build(f"{file}:colour", (1, 16, 16), 5, 0)


def test_a_file_that_is_gone_broken_or_changed_is_refused(mine: Path) -> None:
    with pytest.raises(
        StudyError, match=r"^net file 'no\.py' cannot be read \(No such file or directory\); a net is FI"
    ):
        named("no.py:small")
    mine.write_text(MINE + "# not yet loaded by this process")
    name = named(f"{mine}:small")
    mine.write_text("import nothing_of_this_name")
    message = f"net '{name}': {mine} has changed since; give it back its content, or name the net anew"
    with pytest.raises(StudyError, match=f"^{re.escape(message)}$"):
        architecture(name)
    why = "ModuleNotFoundError: No module named 'nothing_of_this_name'"
    message = f"net file '{mine}' cannot be loaded ({why}); it stands by itself, on libraries"
    with pytest.raises(StudyError, match=f"^{re.escape(message)}$"):
        architecture(f"{mine}:small")


def test_a_name_from_a_store_runs_nothing_until_the_user_names_the_file(tmp_path: Path) -> None:
    name = "theirs.py:small#0123456789abcdef"
    (tmp_path / "theirs.py").write_text("raise SystemExit('sprung')")
    message = f"net '{name}' is made by a file that is not named here; name it, as DIR/theirs.py:small"
    with pytest.raises(StudyError, match=f"^{re.escape(message)}$"):
        architecture(name)


def tiny_runs(name: str, data: DataSet) -> list[Run]:
    learnt, task = (Task(data.digest, of, 4, "onehot", Parts("random", 2)) for of in ((0, 1), (2, 3)))
    recipe = (Recipe(3, 4, 0.05),)
    source = Run(name, learnt, Treatment.parse("RR"), None, recipe)
    return [
        source,
        Run(name, task, Treatment.parse("FR"), source, recipe),
        Run(name, task, Treatment.parse("TR"), source, recipe),
    ]


def test_workers_build_it_from_the_file_that_they_are_told_of(blobs: DataSet, tmp_path: Path) -> None:
    """In other processes, and with the keys and results of a copy that lies elsewhere."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "mine.py", tmp_path / "copy")
    name, quiet = named(f"{tmp_path}/mine.py:small"), Quiet()
    local = train_all(tiny_runs(name, blobs), blobs, store=tmp_path / "one", workers=2, listener=quiet)
    assert named(f"{tmp_path}/copy/mine.py:small") == name
    serial = train_all(tiny_runs(name, blobs), blobs, store=tmp_path / "two", executor="serial", listener=quiet)
    assert list(local) == list(serial) == [key(run) for run in tiny_runs(name, blobs)]
    for one in local:
        assert [p[:3] for p in local[one].result["curve"]] == [p[:3] for p in serial[one].result["curve"]]
        values = ([p[3] for p in records[one].result["curve"]] for records in (local, serial))
        assert next(values) == pytest.approx(next(values), abs=1e-4)


def test_a_probe_takes_it_at_its_own_size(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    found = probe(f"{mine}:small", "digits", probes="knn", steps=5, examples=10, store=tmp_path / "store", quiet=True)
    assert list(found.layers["layer"]) == ["0", "3"]
    assert found.plan["runs"][0]["net"] == named(f"{mine}:small")
    assert found.plan["provenance"]["data"]["images"] == "1,797 of 1x16x16"


# ---------------------------------------------------------------- libraries


@pytest.mark.parametrize(
    ("name", "outputs", "pixels"),
    [
        ("timm:test_resnet", "fc", (0.5, 160)),
        ("timm:resnet10t", "fc", (0.485, 176)),
        ("torchvision:squeezenet1_1", "classifier.1", (0.485, 224)),
        ("transformers:mobilenet_v1", "classifier", (0.5, 224)),
    ],
)
@pytest.mark.usefixtures("libraries")
def test_libraries_nets_have_their_own_pixels_and_heads(name: str, outputs: str, pixels: tuple[float, int]) -> None:
    found = architecture(name)
    assert (found.mean[0], found.size) == pixels
    assert named(name) == name
    for channels in (1, 3):
        assert head(name, (channels, 32, 32)) == {f"{outputs}.weight": 0, f"{outputs}.bias": 0}
        assert build(name, (channels, 32, 32), 5, 0).eval()(torch.zeros(1, channels, 32, 32)).shape == (1, 5)


@pytest.mark.usefixtures("libraries")
def test_googlenet_has_no_second_heads() -> None:
    net = build("torchvision:googlenet", (3, 32, 32), 5, 0).train()
    assert isinstance(net(torch.zeros(2, 3, 32, 32)), torch.Tensor)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet10", "timm has no net 'resnet10'; did you mean 'resnet10t'?"),
        ("timm:resnet10t.x", "timm's 'resnet10t' has no weights 'x'; it has: c3_in1k"),
        ("timm:hf-hub:any/net", "timm has no net 'hf-hub:any/net'; see timm.list_models()"),
        ("torchvision:resnet17", "torchvision has no classification net 'resnet17'; did you mean 'resnet18'?"),
        (
            "transformers:resnt",
            "transformers has no image classification net 'resnt', and there is no folder of this name with a "
            "config.json; did you mean 'resnet'? (one on the hub is downloaded if you ask: transformers:NAME@pretra",
        ),
        (
            "transformers:resnet#0123456789abcdef",
            "net 'transformers:resnet#0123456789abcdef' is made by a folder that is not named here; name it: "
            "transformers:DIR",
        ),
        ("keras:resnet", r"unknown net 'keras:resnet'; "),
    ],
)
@pytest.mark.usefixtures("libraries")
def test_an_unknown_name_comes_with_the_cure(name: str, message: str) -> None:
    with pytest.raises(StudyError) as error:
        architecture(name)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_a_library_that_is_missing_says_what_to_install(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    extra = "transformers" if library == "transformers" else "vision"
    message = rf"^nets of {library} need it, and it is not installed \(.+\); pip install 'layerwise\[{extra}\]'$"
    with pytest.raises(StudyError, match=message):
        architecture(f"{library}:of_this_name_is_none")


@pytest.mark.usefixtures("libraries")
def test_libraries_are_imported_for_their_own_nets_alone() -> None:
    """In a process of its own: here others have imported them."""
    code = (
        "import sys; from layerwise.nets import build; build('resnet20', (3, 32, 32), 2, 0); "
        "assert not {'timm', 'torchvision', 'transformers'} & set(sys.modules); "
        "build('transformers:mobilenet_v1', (3, 32, 32), 2, 0); assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


@pytest.fixture
def saved(tmp_path: Path, libraries: None) -> Path:
    """A folder as transformers saves one, with its pixels."""
    from transformers import ResNetConfig, ResNetForImageClassification

    configured = ResNetConfig(depths=[1, 1], hidden_sizes=[8, 16], embedding_size=4, layer_type="basic", num_labels=7)
    torch.manual_seed(3)
    ResNetForImageClassification(configured).save_pretrained(tmp_path / "saved")
    pixels = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5], "size": {"shortest_edge": 40}}
    (tmp_path / "saved" / "preprocessor_config.json").write_text(json.dumps(pixels))
    return tmp_path / "saved"


def test_a_folder_of_transformers_has_its_configuration_its_pixels_and_its_weights(saved: Path) -> None:
    name, file = parse_net(f"transformers:{saved}")
    assert re.fullmatch("transformers:resnet#[0-9a-f]{16}", name)
    found = architecture(name)
    assert (found.mean, found.std, found.size) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5), 40)
    assert file is not None
    state = net_state(read_weights(file), name, (3, 32, 32), "saved")
    assert state["classifier.1.weight"].shape == (7, 16)
    net = build(name, (3, 32, 32), 7, 0)
    net.load_state_dict(state)
    from transformers import AutoModelForImageClassification

    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    theirs = AutoModelForImageClassification.from_pretrained(saved, local_files_only=True).eval()
    assert torch.equal(net.eval()(images), theirs(images).logits)
    moved = saved.rename(saved.with_name("moved"))
    assert parse_net(f"transformers:{moved}") == (name, file)
    (moved / "preprocessor_config.json").unlink()
    assert parse_net(f"transformers:{moved}")[0] != name


def theirs(folder: Path, pixels: np.ndarray) -> Tensor:
    """What transformers' own preprocessor makes of pixels (height, width, 3), at their own size."""
    from transformers import AutoImageProcessor

    made = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    return made(pixels, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(
    ("said", "mean"),
    [
        ({"image_processor_type": "LevitImageProcessor"}, 0.485),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, 0.5),
        ({"do_normalize": None, "image_mean": [0.1] * 3}, 0.0),
        ({"do_normalize": False, "image_mean": [0.1] * 3}, 0.0),
        ({"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": False}, 0.0),
    ],
)
def test_what_a_preprocessor_leaves_open_is_as_its_class_has_it(saved: Path, said: dict[str, Any], mean: float) -> None:
    (saved / "preprocessor_config.json").write_text(json.dumps(said))
    found = architecture(named(f"transformers:{saved}"))
    assert found.mean[0] == mean
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    torch.testing.assert_close(scaled(pixels.transpose(2, 0, 1)[None], found), theirs(saved, pixels))


def test_a_net_trained_on_blue_green_red_is_given_it_and_nothing_is_normalised(tmp_path: Path, libraries: None) -> None:
    """MobileViT's preprocessor, as its library saves it, says neither whether it normalises nor that it does not."""
    from transformers import MobileViTConfig, MobileViTForImageClassification, MobileViTImageProcessor

    widths = {"hidden_sizes": [8, 12, 16], "neck_hidden_sizes": [4, 4, 8, 8, 12, 16, 24], "num_attention_heads": 2}
    configured = MobileViTConfig(num_labels=3, expand_ratio=1.0, **widths)
    torch.manual_seed(3)
    net = MobileViTForImageClassification(configured).eval()
    net.save_pretrained(tmp_path)
    MobileViTImageProcessor().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text()).get("do_normalize") is None
    name, file = parse_net(f"transformers:{tmp_path}")
    assert file is not None
    made = build(name, (3, 64, 64), 3, 0).eval()
    made.load_state_dict(net_state(read_weights(file), name, (3, 64, 64), "saved"))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images = scaled(pixels.transpose(2, 0, 1)[None], architecture(name))
    torch.testing.assert_close(images, torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    with torch.no_grad():
        torch.testing.assert_close(made(images), net(theirs(tmp_path, pixels)).logits)
    found = layers(made, images)
    first, rest = cut(made, found, 1)
    assert torch.equal(rest(first(images)), made(images))  # a flip at the front hinders no cut


def test_a_preprocessor_that_nobody_knows_is_refused_where_it_leaves_open_how_pixels_are_scaled(saved: Path) -> None:
    (saved / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Theirs"}))
    with pytest.raises(
        StudyError, match=r"does not say how pixels are scaled, and its class is not known \(ValueError"
    ):
        architecture(named(f"transformers:{saved}"))
    said = {"image_processor_type": "Theirs", "do_normalize": True, "image_mean": [0.1] * 3, "image_std": 0.5}
    (saved / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(StudyError, match=r"has image_mean \[0\.1, 0\.1, 0\.1\] and image_std 0\.5; write a number per"):
        architecture(named(f"transformers:{saved}"))
    (saved / "preprocessor_config.json").write_text(json.dumps({**said, "image_std": [0.2] * 3}))
    assert architecture(named(f"transformers:{saved}")).std == (0.2,) * 3


def test_a_folder_with_code_or_pickled_weights_runs_neither(saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    values["auto_map"] = {"AutoModelForImageClassification": "theirs.Net", "AutoConfig": "theirs.Config"}
    (saved / "config.json").write_text(json.dumps(values))
    (saved / "theirs.py").write_text("raise SystemExit('sprung')")
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    name, file = parse_net(f"transformers:{saved}")
    assert file is None
    assert isinstance(build(name, (3, 32, 32), 2, 0), nn.Module)


@pytest.mark.usefixtures("libraries")
def test_pretrained_weights_are_kept_and_anything_amiss_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    timm, asked = imported("timm"), []

    def create(name: str, pretrained: bool = False, **how: int) -> nn.Module:
        asked.append(os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD"))
        if len(asked) == 1:
            raise OSError("no network\nat all")
        return made(name, **how)

    made = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    why = "OSError: no network"
    message = (
        f"pretrained weights of 'timm:test_resnet' cannot be had ({why}); connect to the network, or name a file: "
        "timm:test_resnet@FILE.safetensors"
    )
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        parse_net("timm:test_resnet@pretrained")
    name, file = parse_net("timm:test_resnet@pretrained")
    assert (name, parse_net("timm:test_resnet@pretrained")[1]) == ("timm:test_resnet", file)
    assert asked == ["1", "1"]  # tensors alone were read, and once
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    assert file is not None
    assert net_state(read_weights(file), name, (3, 32, 32), "x")["fc.weight"].shape[0] == 1000
    with pytest.raises(
        StudyError, match=r"^'lenet5' is no net of a library, so it has no pretrained weights; name a f"
    ):
        parse_net("lenet5@pretrained")


@pytest.mark.usefixtures("libraries")
def test_weights_for_images_of_another_size_say_which(tmp_path: Path) -> None:
    save_file(dict(build("timm:test_vit", (3, 160, 160), 3, 0).state_dict()), tmp_path / "vit.safetensors")
    with pytest.raises(LayersError) as error:
        net_state((tmp_path / "vit.safetensors").read_bytes(), "timm:test_vit", (3, 32, 32), "vit")
    assert str(error.value) == (
        "weights 'vit' do not fit net 'timm:test_vit': 'pos_embed' is (1, 101, 64) there and (1, 5, 64) in the net; "
        "images of its own size may fit: pass --resize 160"
    )
