# %% [markdown]
# # A tour of Rheobase
#
# Five short parts on handwritten digits: convert your own network, compare methods, diagnose a bad conversion, convert
# a network for an event camera, and write the files that chips and other simulators read. It runs on a CPU in half a
# minute. Needed: `pip install 'rheobase[nir,onnx]'`.

# %%
import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.nn import functional as F

import rheobase as rb
from rheobase.data import events
from rheobase.zoo.digits import digits

torch.manual_seed(0)
data = digits()  # 1097 images to train, 300 to validate, 400 to test; 8×8 pixels
images, labels = data.train

# %% [markdown]
# ## 1. Convert your own network
#
# Any trained `nn.Module` is converted without a change. It is traced, so that calls such as `F.relu` and additions are
# found too.


# %%
class Network(nn.Module):
    """Your network."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.last = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, 10]."""
        x = F.relu(self.first(x))
        x = F.relu(x + self.second(x))
        return self.last(F.relu(self.third(x)).mean((2, 3)))


def trained(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int = 20) -> nn.Module:
    """Your training."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimiser.step()
    return net.eval()


net = trained(Network(), images, labels)
print(rb.inspect(net, images[:4]))  # every activation becomes a layer of neurons, or is refused with a remedy

# %%
snn = rb.convert(net, rb.Graded(timesteps=4), calibration=images)  # no labels, no training
print(rb.evaluate(snn, data.test, timesteps=(1, 2, 4)))

# %% [markdown]
# ## 2. Compare methods
#
# Same network, same images, same T. The validation images choose within a budget; the test images only report. Open
# `compared/report.html`: it begins with the answer.

# %%
found = rb.compare(
    net,
    [rb.RateCoding(), rb.FTBC(), rb.SNM(), rb.Graded()],
    data.train,
    data.test,
    timesteps=(2, 4),
    validation=data.validation,
    budget={"latency": 4},
    num_calibration_images=256,
    folder="compared",
)
print(found)

# %% [markdown]
# ## 3. Diagnose a bad conversion
#
# Here a threshold is the median of a channel's activations. Larger ones are lost, and the diagnosis names it: clipping.

# %%
bad = rb.convert(net, rb.RateCoding(timesteps=8, threshold="percentile", percentile=50), calibration=images)
diagnosis = rb.diagnose(bad, data.validation[0])
print(diagnosis)

# %% [markdown]
# The default thresholds balance clipping and quantisation. Graded spikes lose less at the same T: a step can say more
# than "one", and a spike that was too much is taken back.

# %%
for recipe in (rb.RateCoding(timesteps=8), rb.Graded(timesteps=8)):
    better = rb.convert(net, recipe, calibration=images)
    print(f"{recipe.name}: {rb.diagnose(better, data.validation[0]).summary()}")

# %% [markdown]
# ## 4. An event camera
#
# A camera that moves over a digit sees events where the brightness changes. Counted in frames, they are images again.
# Recordings come from files (`events.load("folder", ...)`); these are made here.


# %%
def recordings(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[np.ndarray, int]]:
    """ON and OFF events of digits that move by one pixel to the right, and then by one downwards."""
    made: list[tuple[np.ndarray, int]] = []
    for image, label in zip(images[:, 0].numpy(), labels.tolist(), strict=True):
        ways = [image, np.roll(image, 1, axis=1), np.roll(image, (1, 1), axis=(0, 1))]
        change = np.diff(np.stack(ways), axis=0)
        t, y, x = (np.abs(change) > 0.2).nonzero()
        fields = [("x", int), ("y", int), ("t", int), ("p", bool)]
        made.append((np.rec.fromarrays([x, y, 1000 * t, change[t, y, x] > 0], dtype=fields), label))
    return made


framing = events.Framing(frames=2, sensor=(8, 8), by="time")
train, test = (events.load(recordings(*part), framing) for part in (data.train, data.test))
seen, classes = (torch.cat(batches) for batches in zip(*train, strict=True))
print(tuple(seen.shape))  # 2 frames of 2 polarities are 4 channels

event_net = trained(Network(channels=4), seen, classes)
event_snn = rb.convert(event_net, rb.Graded(timesteps=4), calibration=train)
print(rb.evaluate(event_snn, test))

# %% [markdown]
# ## 5. Deploy
#
# Whole numbers: weights of 8 bits, potentials of 24, and the same answer to the bit on every machine.

# %%
whole = rb.integers(snn, "generic", calibration=images)
print(rb.evaluate(whole, data.test))
rb.save(whole, "digits-whole", overwrite=True)
rb.exchange.write_golden_vectors(whole, data.test[0][:10], "golden.safetensors", overwrite=True)  # to check a chip by

# %% [markdown]
# ONNX, in integer operators, for any runtime:

# %%
rb.exchange.export_onnx(whole, "digits.onnx", overwrite=True)
session = onnxruntime.InferenceSession("digits.onnx")
pixels = rb.exchange.onnx.to_pixels(whole, data.test[0]).numpy()
_, logits = session.run(None, {"pixels": pixels})
print("the same logits in onnxruntime:", torch.equal(torch.from_numpy(logits), whole(data.test[0])))

# %% [markdown]
# NIR, for neuromorphic simulators and chips. NIR has single spikes only, so this is another method:

# %%
simple = rb.convert(net, rb.RTS(timesteps=16), calibration=images)
written = rb.exchange.export_nir(rb.network.fold_thresholds(simple), "digits.nir", reset="subtract", overwrite=True)
again = rb.exchange.import_nir("digits.nir")
print("exact:", written.exact, "— layers of neurons:", ", ".join(written.sites))
print(rb.evaluate(again, data.test))
