"""From a folder of pictures to a prediction: a net to begin with, advice, the adapted net, its answer.

python examples/advise.py
"""

from pathlib import Path

from photos import write

import layerwise

# Pictures of our own, and a net that knows something else: letters and digits drawn from fonts.
write(Path("photos"), 16)
layerwise.adapt("lenet5relu", "glyphs:12", treatment="R*", rates=[0.03], steps=150, out="letters", executor="serial")
net = "lenet5relu@letters/model.safetensors"

# What to do with each of its layers, said from short trainings on the pictures that are trained on.
advice = layerwise.advise(net, "folder:photos", resize=32, budget=0.02, out="advice", executor="serial")
print(advice.answer)
print(advice.rows[["name", "treatment", "rate", "accuracy", "chance"]].head())

# Carry it out, and ask about pictures.
adapted = layerwise.adapt(
    net, "folder:photos", resize=32, advice="advice/advice.json", out="adapted", executor="serial"
)
found = layerwise.predict("adapted", ["photos/zero/0003.png", "photos/seven/0003.png"])
for one in found:
    print(one.image, *one.chances[:2])

assert adapted.task.letters == advice.recommended.letters
assert adapted.task.test["accuracy"] > 0.3, "a tenth is chance"
assert [one.class_name for one in found] == ["zero", "seven"]
