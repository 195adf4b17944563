"""Public network definitions with random weights: how many convert exactly, are refused with a right reason, or fail.

    pip install --no-deps pytorchcv timm torchvision
    python benchmarks/zoo.py                       # all; resumes where the file of rows ends
    python benchmarks/zoo.py --only timm/resnet18  # one, printed
    python benchmarks/zoo.py --retry fails         # again those with this outcome
    python benchmarks/zoo.py --full --only timm/vgg19_bn$    # seconds and memory at its own image size, kept
    python benchmarks/zoo.py --nonlinear numbers   # the networks that are refused, with gates, attention... on numbers
    python benchmarks/zoo.py --table               # the tables of docs/results.md
    python benchmarks/zoo.py --kinds               # one line for each kind of failure

Every network runs in a process of its own with a limit of memory and time, at the smallest image size that it takes. It
gets the random weights of its package, then batch-norm statistics of random images, and noise on every constant tensor
(zero biases, unit scales), so that no layer is the identity by chance.

The **family** of a network is found without the library, from the ATen calls of one forward pass:

- ``relu``: every non-linear call is a ReLU, clipped or not, or a max-pooling; no activations are multiplied.
- ``leaky``: leaky or parametric ReLU as well.
- ``gated``: the rest is ReLU, but activations are multiplied by one another (squeeze and excitation, hard-swish).
- ``other``: any other non-linear call (SiLU, GELU, softmax attention, layer normalisation).

A network of the family ``relu`` has to convert: the traced graph and the folded analog network of the conversion equal
the module on random inputs. A refusal of another network is right if its text names one of the calls that put the
network outside of the family.

Most networks of a file differ in depth and width alone. A survey on the meta device records what every call reads and
with which options; of the networks of a file with the same set of these, the smallest is run, and counts for all. Of
the family ``other`` one a file is run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import multiprocessing
import re
import resource
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import rheobase as rb
from rheobase.core.errors import RecipeError, RheobaseError, TraceError
from rheobase.core.lines import append_line, read_lines
from rheobase.core.torchvision import repair_torchvision
from rheobase.graph import capture
from rheobase.graph.operations import OPERATIONS, OnNumbers
from rheobase.graph.rewrites.linear_sites import place_sites

FILE = Path(__file__).with_name("zoo.jsonl")
SIZES = (64, 96, 128)
NUMBERS = Path(__file__).with_name("zoo_numbers.jsonl")
NEURON = rb.methods.GradedNeuron()
RECIPE = rb.Recipe(name="Zoo", timesteps=2, neuron=NEURON, calibration=(rb.passes.Thresholds(method="max"),))
"""One pass over the images; neurons for any site."""
TOLERANCE = 1e-4
Build = Callable[[], nn.Module]


@dataclasses.dataclass(frozen=True)
class Definition:
    """A network of a package: its name, the file that defines it, the function that builds it, its own input shape."""

    package: str
    name: str
    file: str
    build: Build

    @property
    def key(self) -> str:
        """``package/name``."""
        return f"{self.package}/{self.name}"


# --- the packages ---


def torchvision_networks() -> Iterator[Definition]:
    """Classifiers and segmentation networks, images and videos; detectors and optical flow are whole pipelines."""
    import torchvision.models as models

    for name in models.list_models():
        function = models.get_model_builder(name)
        parent, _, file = function.__module__.removeprefix("torchvision.models.").rpartition(".")
        if parent not in ("detection", "optical_flow", "quantization"):
            options = {"weights_backbone": None} if parent == "segmentation" else {}
            options |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            yield Definition("torchvision", name, file, lambda f=function, o=options: f(weights=None, **o))


def timm_networks() -> Iterator[Definition]:
    """Every classifier; of each file also one backbone with several feature maps."""
    import timm
    from timm.models import model_entrypoint

    seen = set()
    for name in sorted(timm.list_models(), key=_natural):
        file = model_entrypoint(name).__module__.rpartition(".")[2]
        if file not in seen:
            seen.add(file)
            build = lambda n=name: timm.create_model(n, features_only=True)  # noqa: E731
            yield Definition("timm", f"{name} (features)", f"{file} (features)", build)
        yield Definition("timm", name, file, lambda n=name: timm.create_model(n))


SKIPPED_FILES = re.compile(
    r"quartznet|jasper|pose|raft|propainter|centernet|lffd|prnet|pfpcnet|voca|nvp|viseme|superpoint"
)
"""Files of pytorchcv for speech, poses, optical flow, detection, landmarks and animation."""


def pytorchcv_networks() -> Iterator[Definition]:
    """Classifiers and segmentation networks; of networks that differ only in the number of classes, the first."""
    from pytorchcv.model_provider import _models

    seen = set()
    for name in sorted(_models, key=lambda n: _natural(n.replace("cifar100", "cifar9999"))):
        file = _models[name].__module__.rpartition(".")[2]
        same = re.sub(r"cifar100|svhn|cifar10", "cifar", name)
        same = re.sub(r"_(voc|coco|cityscapes|ade20k|celebamaskhq|camvid)$", "", same)
        if not SKIPPED_FILES.search(file) and same not in seen:
            seen.add(same)
            yield Definition("pytorchcv", name, file, _models[name])


PACKAGES = {"torchvision": torchvision_networks, "pytorchcv": pytorchcv_networks, "timm": timm_networks}


def _natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


# --- the family of a network ---


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RELU = _words("""relu hardtanh relu6 threshold clamp clamp_min max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
    max_pool3d_with_indices adaptive_max_pool2d""")
LEAKY = _words("leaky_relu _prelu_kernel prelu rrelu_with_noise")
GATES = _words("sigmoid hardsigmoid")
SMOOTH = _words("""silu gelu elu selu celu mish softplus hardswish tanh exp log log1p erf sin cos rsqrt sqrt reciprocal
    pow abs sign round floor maximum minimum amax max argmax sort topk max_unpool2d gt lt ge le where grid_sampler_2d
    std var var_mean norm linalg_vector_norm native_layer_norm native_group_norm native_instance_norm _fused_rms_norm
    _softmax _safe_softmax _log_softmax
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math""")
PRODUCTS = {"mul", "div", "bmm", "mm", "addmm", "baddbmm", "matmul", "convolution", "addcmul"}
"""Calls that are not linear if both factors depend on the input."""


SIZED = _words("""view _unsafe_view reshape expand repeat as_strided slice select split split_with_sizes unbind copy
    clone upsample_bilinear2d upsample_nearest2d upsample_bicubic2d _adaptive_avg_pool2d""")
"""Calls with options that are sizes and places, which differ with the width and the image."""


class Calls(TorchDispatchMode):
    """Records the non-linear ATen calls on values that depend on the input, in order, and the kinds of all calls.

    A value depends on the input if its memory does, so slices and in-place writes are followed as well.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.kinds: set[str] = set()
        """Of every call: the call before it on each value that it reads, its options, the kernel of a convolution."""
        self._writer = {self._place(x): "input"}
        self._kept = [x]  # memory that is alive is not given out again

    @staticmethod
    def _place(value: Tensor) -> int:
        return value.untyped_storage()._cdata

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = tree_flatten((args, kwargs))[0]
        tensors = [t for t in options if isinstance(t, Tensor)]
        dependent = [t for t in tensors if self._place(t) in self._writer]
        writers = sorted({self._writer[self._place(t)] for t in dependent})  # a call may free what it reads
        output = func(*args, **(kwargs or {}))
        if dependent:
            name = func.overloadpacket.__name__
            name = name.removesuffix("_") if not name.startswith("__") else name
            kernel = tuple(tensors[1].shape[2:]) if name == "convolution" else ()
            others = [option for option in options if not isinstance(option, Tensor) and name not in SIZED]
            if name == "convolution":
                others[-1] = min(others[-1], 2)  # groups, of any number
            written = [option if _is_kind(option) else "n" for option in others]
            self.kinds.add(f"{writers} {name} {kernel} {written}")
            if name in RELU | LEAKY | SMOOTH | GATES:
                self.calls.append(name)
            elif "batch_norm" in name and any(value is True for value in args):  # statistics of its input
                self.calls.append("native_instance_norm")
            elif name in PRODUCTS and len(dependent) > 1:
                self.calls.append(f"product ({name})")
            for value in tree_flatten(output)[0]:
                if isinstance(value, Tensor):
                    self._kept.append(value)
                    self._writer[self._place(value)] = name
        return output


def _is_kind(option: Any) -> bool:
    """Whether an option is one of a kind of call, not a size or a constant."""
    return option is None or isinstance(option, bool | str) or (isinstance(option, int) and abs(option) < 8)


def family_of(calls: list[str]) -> tuple[str, list[str]]:
    """The family, and the calls that put a network outside of ``relu``. A softmax or sigmoid at the end is no gate."""
    while calls and calls[-1] in GATES | {"_softmax", "_safe_softmax", "_log_softmax"}:
        calls = calls[:-1]
    foreign = list(dict.fromkeys(call for call in calls if call not in RELU))
    softmax = {"_softmax", "_safe_softmax"}
    if any(call in SMOOTH - softmax for call in foreign):
        return "other", foreign
    if any(call in GATES | softmax or call.startswith("product") for call in foreign):
        return ("other" if softmax & {*foreign} and "product (bmm)" in foreign else "gated"), foreign
    return ("leaky" if foreign else "relu"), foreign


# --- one network ---


def prepare(definition: Definition, full_size: bool = False) -> tuple[nn.Module, Tensor]:
    """The network with random weights and statistics, and random images of the smallest size that it takes."""
    torch.manual_seed(0)
    model = definition.build().eval().requires_grad_(False)
    randomise_constants(model)
    shapes = input_shapes(definition, model)
    for shape in shapes[-1:] if full_size else shapes:
        images = torch.randn(4, *shape)
        try:
            model(images[:1])
            fit_statistics(model, images)
            return model, images
        except Exception:
            if shape == shapes[-1]:
                raise
    raise AssertionError


def input_shapes(definition: Definition, model: nn.Module) -> list[tuple[int, ...]]:
    """Input shapes to try, the network's own last."""
    channels: int = getattr(model, "in_channels", 3)
    size: Any = getattr(model, "in_size", None)
    if definition.package == "timm":
        config: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", {})
        channels, *size = config.get("input_size", (3, 224, 224))
    if (definition.file == "resnet" and type(model).__name__ == "VideoResNet") or definition.name in (
        "s3d",
        "mvit_v1_b",
    ):
        return [(3, 8, 64, 64), (3, 16, 112, 112), (3, 16, 224, 224)]
    if size is None:
        size = (299, 299) if "inception" in definition.name else (224, 224)
    size = (size, size) if isinstance(size, int) else tuple(size)
    return [*((channels, n, n) for n in SIZES if n < min(size)), (channels, *size)]


def randomise_constants(model: nn.Module) -> None:
    """Add noise to every constant parameter: zero biases, unit scales, zero-initialised last layers."""
    for parameter in model.parameters():
        if parameter.numel() and parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
            parameter += 0.2 * torch.randn_like(parameter)


def fit_statistics(model: nn.Module, images: Tensor) -> None:
    """Batch-norm statistics of random images, and noise on them: activations keep their size in deep networks."""
    layers = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_var is not None
    ]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.training, layer.momentum = True, 1.0
    with contextlib.suppress(ValueError):  # one value for each channel: the statistics of the package remain
        model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.training, layer.momentum = False, momentum
        layer.running_mean += 0.2 * layer.running_var.sqrt() * torch.randn_like(layer.running_mean)
        layer.running_var *= 0.7 + 0.6 * torch.rand_like(layer.running_var)
        layer.running_var += 1e-3


def outputs(value: Any) -> list[Tensor]:
    """All tensors of an output: a tensor, a tuple, a dict, a data class."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        value = list(value.values())
    return [value] if isinstance(value, Tensor) else [t for one in value or () for t in outputs(one)]


def difference(value: Any, reference: Any) -> float:
    """Largest relative difference over all outputs; a final softmax or sigmoid that was dropped is applied again."""
    values, references = outputs(value), outputs(reference)
    if len(values) != len(references):
        return math.inf
    worst = 0.0
    for one, target in zip(values, references, strict=True):
        finals = (
            lambda x: x,
            torch.sigmoid,
            lambda x: x.softmax(1),
            lambda x: x.log_softmax(1),
            lambda x: x.softmax(-1),
        )
        worst = max(worst, min(relative_difference(final(one), target) for final in finals))
    return worst


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """Largest absolute difference, divided by the largest absolute reference value."""
    if value.shape != reference.shape:
        return math.inf
    return float((value - reference).abs().max() / reference.abs().max().clamp_min(1e-30))


def warm_up() -> None:
    """Load what tracing and conversion need, once for all processes that are forked."""
    images = torch.rand(2, 3, 8, 8)
    rb.convert(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), RECIPE, calibration=images
    )


def examine(definition: Definition, nonlinear: str = "refuse") -> dict[str, Any]:
    """The row of a network, run in the present process."""
    row: dict[str, Any] = {"outcome": "not run"}
    try:
        model, images = prepare(definition)
        with Calls(images) as found:
            reference = model(images)
        row["family"], foreign = family_of(found.calls)
    except Exception as error:  # the package's own: an operator without CPU kernel, another kind of input
        return {**row, "reason": _line(error)}
    row |= {"input": list(images.shape[1:]), "parameters": sum(p.numel() for p in model.parameters())}
    row["calls"] = foreign
    start = time.perf_counter()
    try:
        if not all(bool(t.isfinite().all()) for t in outputs(reference)):
            return {**row, "reason": "its own output is not finite"}
        several = {} if isinstance(reference, Tensor) else {"output": "all"}
        try:
            found = converted(model, images, nonlinear, several)
        except TraceError as error:
            if "differs from its traced graph" not in str(error):
                raise
            found = {"difference": math.inf}
        if found["difference"] > TOLERANCE:  # of rounding, which a network of random weights can amplify
            found = converted(model.double(), images.double(), nonlinear, several)
        exact = found["difference"] <= TOLERANCE and found.pop("finite")
        row |= {**found, "outcome": "converts" if exact else "fails"}
        if not exact:
            off = row["difference"] > TOLERANCE
            row["reason"] = f"differs by {row['difference']:.2g}" if off else "spiking output is not finite"
    except RheobaseError as error:
        right = nonlinear == "refuse" and row["family"] != "relu" and any(_named(call, str(error)) for call in foreign)
        right |= "data-dependent" in str(error) or "leaves PyTorch" in str(error)  # of any family
        right |= nonlinear == "numbers" and any(kind in str(error) for kind in REFUSED_ON_NUMBERS)
        row |= {"outcome": "refused" if right else "fails", "reason": str(error)[:400]}
    except Exception as error:
        row |= {"outcome": "not run" if "allocate memory" in str(error) else "fails", "reason": _line(error)}
    return {**row, "seconds": round(time.perf_counter() - start, 1), "peak_mib": peak_mib()}


REFUSED_ON_NUMBERS = ("max_unpool", "topk", "sort", "grid_sampler", "argmax", "time axis")
"""What is refused with nodes on numbers too: places that depend on values, and recurrence."""


def converted(model: nn.Module, images: Tensor, nonlinear: str, several: dict[str, Any]) -> dict[str, Any]:
    """The largest relative difference of graph and analog network from the module, and the size of the conversion."""
    found = capture(model, images[:2], nonlinear=nonlinear, **several)
    found.raise_if_refused()
    graph, batches = found.graph, (images, torch.rand(2, *images.shape[1:]).to(images.dtype))
    snn = spiking(graph, images, nonlinear)
    return {
        "difference": max(difference(_returned(graph, net(x)), model(x)) for net in (graph, snn.ann) for x in batches),
        "sites": len(snn.sites),
        "on_numbers": sum(isinstance(OPERATIONS.get(n.operation), OnNumbers) for n in graph.nodes),
        "finite": all(bool(t.isfinite().all()) for t in outputs(snn(images[:1]))),
    }


def spiking(graph: Any, images: Tensor, nonlinear: str) -> rb.SpikingNetwork:
    """The conversion; with nodes on numbers, what weighted layers read is spikes, where it is not already."""
    sites = "activations"
    if nonlinear == "numbers":
        with contextlib.suppress(RecipeError):
            place_sites(graph, "all")
            sites = "all"
    return rb.convert(graph, RECIPE, calibration=images, max_pool="gate", sites=sites)


def _returned(graph: Any, value: Tensor) -> Any:
    """The outputs of a network with several, which a graph joins into one tensor."""
    return graph.unpack(value) if graph.nodes[-1].operation == "outputs" else value


def _named(call: str, text: str) -> bool:
    """Whether a refusal names a call: ``native_layer_norm`` is named by "layer_norm" or "layer normalisation"."""
    words = (
        re.sub(r"product|[()]|native_|kernel|scaled_dot_product_|flash_|_for_cpu", " ", call)
        .strip("_ ")
        .replace("_", ".?")
    )
    text = text.lower()
    kinds = {"norm": "normalisation", "product": "product|multipl|gate|swish", "softmax": "attention|softmax"}
    return bool(re.search(words, text)) or any(kind in call and re.search(kinds[kind], text) for kind in kinds)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"[:300]


def peak_mib() -> int:
    """Peak resident memory of the process, libraries included."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def full_size(definition: Definition) -> dict[str, Any]:
    """Seconds of ``inspect`` and ``convert`` and the peak memory, at the network's own image size."""
    model, images = prepare(definition, full_size=True)
    row: dict[str, Any] = {"outcome": "measured", "input": list(images.shape[1:])}
    row |= {"parameters": sum(p.numel() for p in model.parameters()), "peak_mib_before": peak_mib()}
    start = time.perf_counter()
    model(images)
    middle = time.perf_counter()
    rb.inspect(model, images[:1])
    last = time.perf_counter()
    snn = rb.convert(model, RECIPE, calibration=images, max_pool="gate")
    row |= {"forward_4_images_s": round(middle - start, 1), "inspect_s": round(last - middle, 1)}
    row |= {"convert_s": round(time.perf_counter() - last, 1), "sites": len(snn.sites), "peak_mib": peak_mib()}
    return row


def survey(definition: Definition) -> dict[str, Any]:
    """Parameters, the family, and a digest of the kinds of calls, of a network on the meta device."""
    row: dict[str, Any] = {"outcome": "waiting", "parameters": 0}
    with contextlib.suppress(Exception), torch.device("meta"):
        model = definition.build().eval()
        row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        images = torch.empty(1, *input_shapes(definition, model)[-1])
        with Calls(images) as found:
            model(images)
        row["family"], row["calls"] = family_of(found.calls)
        row["kinds"] = hashlib.sha256("\n".join(sorted(found.kinds)).encode()).hexdigest()[:12]
    return row


# --- all networks ---


def in_process(job: Callable[[Definition], dict[str, Any]], definition: Definition, limits: Any) -> dict[str, Any]:
    """Run a job in a forked process with a limit of memory and time."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (int(limits.memory * 2**30),) * 2)
        warnings.simplefilter("ignore")
        with torch.no_grad():
            sender.send(job(definition))

    process = context.Process(target=child)
    start = time.perf_counter()
    process.start()
    sender.close()
    row: dict[str, Any] = {"outcome": "not run"}
    try:
        row = receiver.recv() if receiver.poll(limits.timeout) else {**row, "reason": f"over {limits.timeout:g} s"}
    except EOFError:
        row["reason"] = f"over {limits.memory:g} GiB of memory, or crashed"
    process.kill()
    process.join()
    names = {"package": definition.package, "name": definition.name, "file": definition.file}
    return {**names, **row, "total_seconds": round(time.perf_counter() - start, 1)}


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The last row of each network."""
    return {key_of(row): row for row in map(json.loads, read_lines(path))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", default=",".join(PACKAGES))
    parser.add_argument("--only", help="regular expression of package/name; rows are printed, not kept")
    parser.add_argument("--skip", help="regular expression of package/name")
    parser.add_argument("--retry", help="run the networks with this outcome again")
    parser.add_argument("--family", help="run the networks of this family only")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no network after that")
    parser.add_argument("--memory", type=float, default=8, help="GiB of address space for each network")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for each network")
    parser.add_argument("--file", type=Path, help=f"default {FILE.name}; with --nonlinear numbers {NUMBERS.name}")
    parser.add_argument("--nonlinear", choices=("refuse", "numbers"), default="refuse")
    parser.add_argument("--full", action="store_true", help="measure costs at the network's own image size")
    for flag in ("table", "kinds"):
        parser.add_argument(f"--{flag}", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    options.file = options.file or (NUMBERS if options.nonlinear == "numbers" else FILE)
    start, rows = time.monotonic(), read_rows(options.file)
    job = functools.partial(examine, nonlinear=options.nonlinear)
    if options.nonlinear == "numbers":  # only the others; surveyed and grouped already
        others = {key: row for key, row in read_rows(FILE).items() if row["outcome"] in ("refused", "waiting")}
        others = {key: row for key, row in others.items() if row.get("family") != "relu"}
        kept = ("package", "name", "file", "family", "calls", "kinds", "parameters")
        others = {key: {name: row[name] for name in kept if name in row} for key, row in others.items()}
        rows = {key: {**row, "outcome": "waiting"} for key, row in others.items()} | rows
    if options.table:
        return print(table(list(rows.values())))
    if options.kinds:
        return print(kinds(list(rows.values())))
    repair_torchvision()
    warm_up()
    definitions = {d.key: d for name in options.packages.split(",") for d in PACKAGES[name]()}
    if options.only:
        for definition in definitions.values():
            if re.search(options.only, definition.key):
                row = in_process(full_size if options.full else job, definition, options)
                print(json.dumps(row), flush=True)
                if options.full:
                    add({**row, "name": f"{row['name']} (full size)"}, options.file)
        return None
    for definition in definitions.values():
        if definition.key not in rows and options.nonlinear == "refuse":
            rows[definition.key] = add(in_process(survey, definition, options), options.file)
    for row, *_ in groups([row for key, row in rows.items() if key in definitions]):
        if row["outcome"] != (options.retry or "waiting"):
            continue
        if options.family and row.get("family", "unknown") != options.family:
            continue
        if options.skip and re.search(options.skip, key_of(row)):
            continue
        if time.monotonic() - start > 60 * options.minutes:
            break
        add({**in_process(job, definitions[key_of(row)], options), "kinds": row.get("kinds")}, options.file)
    return None


def key_of(row: dict[str, Any]) -> str:
    """``package/name``."""
    return f"{row['package']}/{row['name']}"


def add(row: dict[str, Any], path: Path) -> dict[str, Any]:
    """Append a row to the file, and show it."""
    append_line(path, json.dumps(row).encode())
    if row["outcome"] != "waiting":
        print(f"{key_of(row)}: {row['outcome']} {row.get('reason', '')[:150]!r}", flush=True)
    return row


def groups(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The networks of a file with the same kinds of calls, or of the family ``other``; the one that is run first."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["outcome"] == "waiting", row.get("parameters") or math.inf)):
        if row["outcome"] != "measured":
            same = "other" if row.get("family") == "other" else row.get("kinds") or row["name"]
            found[row["package"], row["file"], same].append(row)
    return sorted(found.values(), key=lambda group: group[0].get("parameters") or math.inf)


def table(rows: list[dict[str, Any]]) -> str:
    """Networks by package, family and outcome, of which as many were run; then the calls of refused networks."""
    outcomes = ("converts", "refused", "fails", "not run")
    lines = [f"| package | family | {' | '.join(outcomes)} |", "| --- | --- |" + " --: |" * len(outcomes)]
    counts: Counter[tuple[str, str, str]] = Counter()
    run: Counter[tuple[str, str, str]] = Counter()
    for group in groups(rows):
        outcome = "not run" if group[0]["outcome"] == "waiting" else group[0]["outcome"]
        counts[group[0]["package"], group[0].get("family", "unknown"), outcome] += len(group)
        run[group[0]["package"], group[0].get("family", "unknown"), outcome] += group[0]["outcome"] != "waiting"
    for package in PACKAGES:
        for family in FAMILIES:
            cells = [f"{n} ({run[package, family, o]})" if (n := counts[package, family, o]) else "" for o in outcomes]
            if any(cells):
                lines.append(f"| {package} | {family} | {' | '.join(cells)} |")
    reasons = Counter(call for r in rows if r["outcome"] == "refused" for call in r["calls"])
    lines += ["", "| call | networks refused that have it |", "| --- | --: |"]
    lines += [f"| {call} | {number} |" for call, number in reasons.most_common()]
    lines += ["", "| full size | parameters, M | input | sites | forward, s | inspect, s | convert, s | peak, MiB |"]
    lines.append("| --- | --: | --- | --: | --: | --: | --: | --: |")
    for r in rows:
        if r["outcome"] == "measured":
            cells = [key_of(r), f"{r['parameters'] / 1e6:.0f}", "×".join(map(str, r["input"])), r["sites"]]
            cells += [r["forward_4_images_s"], r["inspect_s"], r["convert_s"], r["peak_mib"]]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


FAMILIES = ("relu", "leaky", "gated", "other", "unknown")


def kinds(rows: list[dict[str, Any]]) -> str:
    """One line for each kind of failure, with the number of networks and the smallest one."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["outcome"] == "fails":
            for kind in failure_kinds(row["reason"]):
                groups[kind].append(row)
    lines = ["| networks | kind | family | smallest |", "| --: | --- | --- | --- |"]
    for kind, members in sorted(groups.items(), key=lambda item: -len(item[1])):
        smallest = min(members, key=lambda row: row.get("parameters", 0))
        families = ", ".join(f"{n} {name}" for name, n in Counter(row["family"] for row in members).items())
        lines.append(f"| {len(members)} | {kind} | {families} | {smallest['package']}/{smallest['name']} |")
    return "\n".join(lines)


def failure_kinds(reason: str) -> set[str]:
    """The kinds in a reason: one for each refused call, without names of layers and numbers."""
    notes = re.findall(r"\): (\w[^\n]*?)(?: Remedy|$)", reason, flags=re.MULTILINE) or [reason]
    return {re.sub(r"\d+(\.\d+)?(e-?\d+)?", "N", note)[:200].replace("|", "/") for note in notes}


if __name__ == "__main__":
    main()
