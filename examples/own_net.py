"""A net of your own: a function in a file. Here it is in this one, which then looks at it, probes it and adapts it.

layerwise nets examples/own_net.py:wide --resize 32 --classes 10
python examples/own_net.py
"""

from torch import nn

MEAN, STD = (0.5,), (0.25,)  # of the pixels, from 0 to 1


def wide(outputs: int, channels: int = 1) -> nn.Module:
    """Two convolutions with batch norm and a linear head, for images of any size."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, outputs),
    )


def main() -> None:
    """Train it on five digits, look at its layers, and have it learn the other five over frozen ones."""
    import layerwise

    net = f"{__file__}:wide"
    few = {"resize": 16, "executor": "serial"}
    first = layerwise.adapt(net, "digits", classes="0-4", treatment="R*", rates=[0.05], steps=150, out="first", **few)
    trained = f"{net}@first/model.safetensors"

    probed = layerwise.probe(trained, "digits", resize=16, probes="linear", examples=30)
    print(probed.layers)

    second = layerwise.adapt(
        trained, "digits", classes="5-9", treatment="FFR", rates=[0.05], steps=150, out="second", **few
    )
    print(f"0 to 4 from scratch: {first.task.test['accuracy']:.1%}; 5 to 9 on top: {second.task.test['accuracy']:.1%}")

    frozen = [name for name in first.net.state_dict() if name.startswith(("0.", "1."))]
    moved = [n for n in frozen if not first.net.state_dict()[n].equal(second.net.state_dict()[n])]
    assert len(frozen) == 14
    assert moved == [], "frozen layers, batch-norm statistics included, are what they were"
    assert second.task.test["accuracy"] > 0.5


if __name__ == "__main__":
    main()
