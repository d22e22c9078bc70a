"""Write a folder of pictures, a folder for each class: scikit-learn's handwritten digits, to try things on.

python examples/photos.py photos 30      # 30 of each class, as photos/zero/0000.png
"""

import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def write(folder: Path, each: int) -> None:
    """Write so many pictures of each class, 64x64 and grey."""
    found = load_digits()
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(found.images[found.target == label][:each]):
            picture = Image.fromarray((pixels * (255 / 16)).round().astype("uint8"))
            picture.resize((64, 64), Image.Resampling.BICUBIC).save(folder / name / f"{number:04}.png")


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
    pictures = len(list(Path(sys.argv[1]).rglob("*.png")))
    print(f"{sys.argv[1]}: {pictures} pictures of {len(NAMES)} classes")
