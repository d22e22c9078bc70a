"""The same runs as a competent user would write them without layerwise: eager PyTorch, one run after the other.

    python benchmarks/plain.py PLAN.json [--threads default|1]

Of several usual ways to write each part, the fastest is taken; what was tried is said where it stands. Data are tensors
in memory, nothing is read back during a run, only trained parameters are in the optimiser. Prints one line of JSON: the
seconds from after the data are loaded to the last result, and each run's accuracies.
"""

import argparse
import json
import time
from itertools import groupby, islice
from math import ceil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

EVALUATED = 100  # images at a time: as fast as 250 to 1,000 for the small nets, 1.2 to 3 times faster for the ResNet
# On this machine the kernels for channels-last are 1.7 times faster for colour images, and no faster for LeNet-5.
LAYOUTS = {"lenet5": torch.contiguous_format, "small8": torch.channels_last, "resnet20": torch.channels_last}

# LeCun et al. 1998, table I: which of the 6 maps of S2 each of the 16 maps of C3 sees.
C3_TABLE = [
    [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 0], [5, 0, 1], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5],
    [3, 4, 5, 0], [4, 5, 0, 1], [5, 0, 1, 2], [0, 1, 3, 4], [1, 2, 4, 5], [2, 3, 5, 0], [0, 1, 2, 3, 4, 5],
]  # fmt: skip


class ScaledTanh(nn.Module):
    def forward(self, x):
        return 1.7159 * torch.tanh(x * (2 / 3))


class Subsample(nn.Module):
    """The sum of each 2x2 tile times a weight, plus a bias, per map.

    Slices are as fast as F.avg_pool2d on two threads and 1.4 times faster on one; a depthwise convolution, a reshape
    with sums, and channels-last are slower.
    """

    def __init__(self, maps):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(maps, 1, 1).uniform_(-2.4 / 4, 2.4 / 4))
        self.bias = nn.Parameter(torch.empty(maps, 1, 1).uniform_(-2.4 / 4, 2.4 / 4))

    def forward(self, x):
        top, bottom = x[:, :, 0::2], x[:, :, 1::2]
        return (top[..., 0::2] + top[..., 1::2] + bottom[..., 0::2] + bottom[..., 1::2]) * self.weight + self.bias


class TableConv2d(nn.Conv2d):
    """C3: a convolution whose weights outside the table are masked."""

    def __init__(self):
        super().__init__(6, 16, 5)
        mask = torch.zeros(16, 6, 1, 1)
        for out, seen in enumerate(C3_TABLE):
            mask[out, seen] = 1
        self.register_buffer("mask", mask, persistent=False)
        bound = 2.4 / (25 * mask.sum(1, keepdim=True))
        with torch.no_grad():
            self.weight.uniform_(-1, 1).mul_(bound)
            self.bias.uniform_(-1, 1).mul_(bound.flatten())

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias)


def lecun_uniform(layer):
    bound = 2.4 / layer.weight[0].numel()
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.uniform_(layer.bias, -bound, bound)
    return layer


def lenet5(outputs):
    """C5 sees its 5x5 maps whole: as a linear layer it is 1.2 times faster than as a convolution."""
    return nn.Sequential(
        nn.Sequential(lecun_uniform(nn.Conv2d(1, 6, 5)), ScaledTanh()),
        nn.Sequential(Subsample(6), ScaledTanh()),
        nn.Sequential(TableConv2d(), ScaledTanh()),
        nn.Sequential(Subsample(16), ScaledTanh()),
        nn.Sequential(nn.Flatten(), lecun_uniform(nn.Linear(400, 120)), ScaledTanh()),
        nn.Sequential(lecun_uniform(nn.Linear(120, outputs)), ScaledTanh()),
    )


def small8(outputs):
    """AlexNet's eight layers, small, for 32x32 colour images."""
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(48, 64, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        nn.Sequential(nn.Linear(256, 384), nn.ReLU()),
        nn.Sequential(nn.Linear(384, 384), nn.ReLU()),
        nn.Sequential(nn.Linear(384, outputs)),
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    nn.init.normal_(net[-1][0].weight, std=0.01)
    return net


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.widens = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2 if self.widens else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.widens:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.widens // 2, self.widens // 2))
        return F.relu(y + x)


class ResNet20(nn.Module):
    """He's ResNet-20 for CIFAR-10 without its head, in the names of akamaster/pytorch_resnet_cifar10."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


NETS = {"lenet5": lenet5, "small8": small8}


def transferred(plan, run, sources):
    """A fresh net with the source's first layers in it, some of them frozen."""
    net = NETS[plan["net"]](plan["outputs"])
    source = sources[run["source"]] if run["copied"] else {}
    copied = {name: tensor for name, tensor in source.items() if int(name.split(".")[0]) < run["copied"]}
    net.load_state_dict(copied, strict=False)
    for layer in net[: run["frozen"]]:
        layer.requires_grad_(False)
    return net.to(memory_format=LAYOUTS[plan["net"]])


def learn(net, recipe, train, test, codes):
    """Train the net; gives accuracy and loss on the test images along the way, and last on the training images.

    Plain SGD as PyTorch has it. Shuffling a whole pass at once and slicing it was not faster than indexing each batch.
    """
    images, classes = train
    targets = classes if codes is None else codes[classes]
    criterion = F.cross_entropy if codes is None else F.mse_loss
    optimiser = torch.optim.SGD(
        [p for p in net.parameters() if p.requires_grad], lr=recipe["rate"], momentum=recipe["momentum"]
    )
    steps, size = recipe["steps"], recipe["batch_size"]
    order = torch.cat([torch.randperm(len(images)) for _ in range(ceil(steps * size / len(images)))])
    every = recipe["evaluate_every"]
    curve = [evaluate(net, *test, codes, criterion)] if every else []
    net.train()
    for step, batch in enumerate(islice(order.split(size), steps), 1):
        if step - 1 in recipe["drops"]:
            for group in optimiser.param_groups:
                group["lr"] /= 10
        loss = criterion(net(images[batch]), targets[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step == steps or (every and step % every == 0):
            curve.append(evaluate(net, *test, codes, criterion))
            net.train()
    curve.append(evaluate(net, images, classes, codes, criterion))
    return torch.stack(curve).tolist()


@torch.no_grad()
def evaluate(net, images, classes, codes, criterion):
    """Accuracy and loss, still as a tensor."""
    net.eval()
    outputs = torch.cat([net(some) for some in images.split(EVALUATED)])
    if codes is None:
        found, loss = outputs.argmax(1), criterion(outputs, classes)
    else:
        found, loss = (outputs @ codes.T).argmax(1), criterion(outputs, codes[classes])
    return torch.stack([(found == classes).float().mean(), loss])


@torch.no_grad()
def features(images, weights):
    """What the frozen net makes of all images, once."""
    net = ResNet20()
    net.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("linear.")})
    net.eval().to(memory_format=LAYOUTS["resnet20"])
    return torch.cat([net(some) for some in images.split(EVALUATED)])


def head(outputs):
    """A linear probe, which begins as the ResNet's own head does."""
    linear = nn.Linear(64, outputs)
    nn.init.kaiming_normal_(linear.weight)
    return linear


def do(file):
    """Everything in the plan: the seconds it took once the data were there, and what each run learnt."""
    plan = json.loads(file.read_text())
    with np.load(file.parent / plan["data"]) as arrays:
        given = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    mean, std = (torch.tensor(plan[name])[:, None, None] for name in ("mean", "std"))
    images = ((given["images"] / 255 - mean) / std).contiguous(memory_format=LAYOUTS[plan["net"]])
    sources = [load_file(file.parent / name) for name in plan["sources"]]

    start = time.perf_counter()
    if plan["probes"]:
        images = features(images, sources[0])
    found = []
    for task, runs in groupby(plan["runs"], key=lambda run: run["task"]):
        train, test = ((images[given[f"{part}{task}"]], given[f"{part}_classes{task}"]) for part in ("train", "test"))
        for run in runs:
            began = time.perf_counter()
            torch.manual_seed(run["seed"])
            net = head(plan["outputs"]) if plan["probes"] else transferred(plan, run, sources)
            curve = learn(net, plan["recipe"], train, test, given.get(f"codes{task}"))
            found.append({"key": run["key"], "seconds": time.perf_counter() - began, "curve": curve})
    return time.perf_counter() - start, found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("--threads", choices=["default", "1"], default="default", help="PyTorch's own number, or one")
    asked = parser.parse_args()
    if asked.threads == "1":
        torch.set_num_threads(1)
    seconds, found = do(asked.plan)
    print(json.dumps({"training_seconds": seconds, "threads": torch.get_num_threads(), "runs": found}))


if __name__ == "__main__":
    main()
