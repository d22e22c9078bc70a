"""Weights from files: what is read, what it is called, and every way in which it is refused."""

import hashlib
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from layerwise.errors import LayersError, StudyError
from layerwise.nets import NETS, build
from layerwise.nets.weights import net_state, parse_net, read_weights, weights_digest

SHAPE = (3, 32, 32)
State = dict[str, Tensor]


def state(outputs: int = 7, net: str = "resnet20") -> State:
    return dict(build(net, SHAPE, outputs, 4).state_dict())


def of(tensors: State, net: str = "resnet20") -> State:
    """What is made of these tensors, written and read."""
    return net_state(save(tensors), net, SHAPE, "best.safetensors")


def test_a_net_may_name_its_weights() -> None:
    assert parse_net("lenet5") == ("lenet5", None)
    assert parse_net("resnet20@a/b@c.safetensors") == ("resnet20", Path("a/b@c.safetensors"))
    assert parse_net("small8@~/x") == ("small8", Path.home() / "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "resnet20@",
            "net 'resnet20@' names no weights after its '@'; write resnet20@FILE.safetensors, or just resnet20",
        ),
        (
            "resnet21@x.safetensors",
            f"unknown net 'resnet21'; did you mean 'resnet32'? (known: {', '.join(sorted(NETS))})",
        ),
        ("@x.safetensors", f"unknown net ''; known: {', '.join(sorted(NETS))}"),
    ],
)
def test_a_wrong_name_comes_with_the_cure(text: str, message: str) -> None:
    with pytest.raises(StudyError, match=f"^{re.escape(message)}$"):
        parse_net(text)


def test_weights_are_named_by_their_bytes(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "one.safetensors")
    content = read_weights(tmp_path / "one.safetensors")
    assert content == (tmp_path / "one.safetensors").read_bytes()
    assert weights_digest(content) == hashlib.sha256(content).hexdigest()
    assert weights_digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("net", ["resnet20", "small8"])
@pytest.mark.parametrize("outputs", [1, 2, 10])
def test_what_is_written_is_read_whatever_the_width_of_the_head(net: str, outputs: int) -> None:
    written = state(outputs, net)
    found = of(written, net)
    assert found.keys() == written.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in written.items())


def test_batch_norms_counter_may_be_absent_and_parallels_prefix_there() -> None:
    old = {f"module.{name}": tensor for name, tensor in state().items() if "tracked" not in name}
    found = of(old)
    assert found.keys() == {name for name in state() if "tracked" not in name}
    assert all(torch.equal(found[name], old[f"module.{name}"]) for name in found)


def without(tensors: State, *names: str) -> State:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("tensors", "misfit"),
    [
        (
            without(state(), "layer2.0.conv1.weight"),
            "'layer2.0.conv1.weight' (32, 16, 3, 3) is missing (1 missing, 0 unexpected of 115 tensors)",
        ),
        (
            without(state(), "linear.weight", "linear.bias"),
            "'linear.weight' (2, 64) is missing (2 missing, 0 unexpected of 114 tensors)",
        ),
        (
            state(net="resnet32"),
            "the net has no 'layer1.3.bn1.bias' (0 missing, 72 unexpected of 188 tensors)",
        ),
        (
            state(net="small8"),
            "'conv1.weight' (16, 3, 3, 3) is missing (97 missing, 16 unexpected of 16 tensors)",
        ),
        (
            {"module.conv1.weight": torch.zeros(16, 3, 3, 3), **without(state(), "conv1.weight")},
            "'conv1.weight' (16, 3, 3, 3) is missing (1 missing, 1 unexpected of 116 tensors)",
        ),
        (
            {**state(), "layer1.0.conv2.weight": torch.zeros(16, 16, 5, 5)},
            "'layer1.0.conv2.weight' is (16, 16, 5, 5) there and (16, 16, 3, 3) in the net",
        ),
        ({**state(), "linear.weight": torch.zeros(8, 64)}, "'linear.bias' is (7,) there and (8,) in the net"),
        (
            {**state(), "linear.bias": torch.zeros(7, dtype=torch.int8)},
            "'linear.bias' is int8 there and float32 in the net",
        ),
        ({}, "'conv1.weight' (16, 3, 3, 3) is missing (97 missing, 0 unexpected of 0 tensors)"),
    ],
)
def test_weights_of_another_net_say_the_first_tensor_that_differs(tensors: State, misfit: str) -> None:
    message = f"weights 'best.safetensors' do not fit net 'resnet20': {misfit}"
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        of(tensors)


class Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["best.pth", "best.th", "checkpoint", "best.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(name: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    if zipped:
        torch.save({"state_dict": state(), "trap": Trap(tmp_path / "sprung")}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    why = "'getattr'" if zipped else "which, is not told"
    message = (
        f"weights '{path}' hold more than tensors, which can run code when read ({why}); save them again from where "
        "they come from: torch.save(net.state_dict(), FILE)"
    )
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        read_weights(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_what_pytorch_saved_is_read_alone_or_from_a_checkpoint(key: str | None, prefix: str, tmp_path: Path) -> None:
    written = {f"{prefix}{name}": tensor for name, tensor in state().items()}
    torch.save(written if key is None else {"epoch": 3, "args": {"rate": 0.1}, key: written}, tmp_path / "best.pth")
    found = net_state(read_weights(tmp_path / "best.pth"), "resnet20", SHAPE, "best.pth")
    assert found.keys() == state().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state().items())


def test_weights_have_one_digest_however_they_were_saved(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "one.safetensors")
    torch.save(state(), tmp_path / "two.pth")
    torch.save({"model": state()}, tmp_path / "three.pth", _use_new_zipfile_serialization=False)
    digests = {weights_digest(read_weights(path)) for path in tmp_path.iterdir()}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("saved", "what"),
    [({"epoch": 3, "best": 0.5}, "epoch, best"), (torch.zeros(2), "Tensor"), ({}, "")],
)
def test_a_file_without_tensors_by_name_says_what_it_holds(saved: object, what: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "x.pth")
    keys = "state_dict, model_state_dict, model, net"
    message = f"weights '{tmp_path / 'x.pth'}' hold no tensors by name, alone or under {keys}; they hold: {what}"
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        read_weights(tmp_path / "x.pth")


def test_half_a_file_of_pytorch_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[: len(content) // 2])
    message = rf"^weights '{re.escape(str(tmp_path / 'x.pth'))}' are not a whole PyTorch file \(.+\); copy it again$"
    with pytest.raises(LayersError, match=message):
        read_weights(tmp_path / "x.pth")


def test_a_file_that_is_no_safetensors_is_refused_by_name(tmp_path: Path) -> None:
    whole = save(state())
    for content in (b"", b"hello", whole[: len(whole) // 2], whole + b"more"):
        path = tmp_path / "half.safetensors"
        path.write_bytes(content)
        message = rf"^weights '{re.escape(str(path))}' are not a whole safetensors file \(.+\); copy it again$"
        with pytest.raises(LayersError, match=message):
            read_weights(path)


def test_a_file_that_is_not_there_or_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "no.safetensors", "No such file or directory"), (tmp_path, "Is a directory")):
        message = f"weights '{path}' cannot be read ({why}); name a safetensors file"
        with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
            read_weights(path)


def test_a_header_that_begins_like_a_pickle_is_still_read(tmp_path: Path) -> None:
    """The length of a header may begin with the byte of a pickle; what parses is no pickle."""
    for size in range(1, 200):
        content = save({"x" * size: torch.zeros(2)})
        if content[0] == 0x80:
            break
    assert content[0] == 0x80
    (tmp_path / "x.bin").write_bytes(content)
    assert read_weights(tmp_path / "x.bin") == content
