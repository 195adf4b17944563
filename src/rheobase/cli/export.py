"""``rheobase export``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from rich.console import Console
from torch import Tensor
from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, show_progress
from rheobase.core.errors import DataError, RecipeError
from rheobase.data import readers
from rheobase.data.batches import Batches, batches
from rheobase.data.sampling import NUM_CALIBRATION_IMAGES
from rheobase.exchange import store
from rheobase.exchange.golden import write_golden_vectors
from rheobase.exchange.nir import export_nir
from rheobase.exchange.onnx import export_onnx
from rheobase.exchange.onnx.export import Form
from rheobase.exchange.whole_numbers._integers import Rounding, integers
from rheobase.network.folding import fold_thresholds
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.network.target import target as profile
from rheobase.neurons.integer import FiresWhen

To = Literal["nir", "integers", "onnx"]
OF = {
    "nir": ("approximate", "reset", "fold", "fires_when"),
    "integers": ("target", "rounding", "fires_when", "data", "folder", "num_calibration_images", "seed", "golden"),
    "onnx": ("form", "spikes"),
}
"""Options that have an effect for a kind of file."""


@command
def export(
    network_folder: options.Saved,
    to: Annotated[
        To,
        Option(help="nir: a file for other simulators; integers: a folder on whole numbers; onnx: a file of integers."),
    ],
    out: Annotated[Path, Option(help="File or folder to write.")],
    approximate: Annotated[
        bool, Option("--approximate", help="nir: also write what only Rheobase restores exactly.")
    ] = False,
    reset: Annotated[
        Literal["value", "subtract"] | None,
        Option(help="nir: reset of IF nodes in the simulator that reads the file (default: value)."),
    ] = None,
    fold: Annotated[bool, Option("--fold-thresholds", help="nir: fold the thresholds into the weights first.")] = False,
    fires_when: Annotated[
        FiresWhen | None,
        Option(
            help="When the neurons of the chip or simulator fire: v >= θ (reached; default for integers) or v > θ "
            "(exceeded; default for nir, and only of effect there for networks on whole numbers)."
        ),
    ] = None,
    target: Annotated[str | None, Option(help="integers: the chip: generic (default), speck, loihi2 or xylo.")] = None,
    rounding: Annotated[Rounding | None, Option(help="integers: of the weights (default: nearest).")] = None,
    data: Annotated[
        str | None, Option(help=f"integers: calibration images, never test images: {options.SPEC}.")
    ] = None,
    folder: Annotated[str | None, Option(help="integers: part of --data to read, such as train.")] = None,
    num_calibration_images: Annotated[
        int | None, Option(min=1, help=f"integers: maximum number of images (default: {NUM_CALIBRATION_IMAGES}).")
    ] = None,
    seed: Annotated[int | None, Option(help="integers: seed of the calibration images (default: 0).")] = None,
    golden: Annotated[
        int | None,
        Option(min=1, help=f"integers: also write {store.GOLDEN_FILE}: the spikes of every site for the first images."),
    ] = None,
    form: Annotated[
        Form | None, Option(help="onnx: the closed form, or every step unrolled (default: what the neurons have).")
    ] = None,
    spikes: Annotated[bool, Option("--spikes", help="onnx: also output the spike counts of every site.")] = False,
    overwrite: options.Overwrite = False,
    device: options.Device = None,
) -> Answer:
    """Write a saved spiking network for other simulators and chips."""
    given = {
        "approximate": approximate or None,
        "reset": reset,
        "fold": fold or None,
        "fires_when": fires_when,
        "target": target,
        "rounding": rounding,
        "data": data,
        "folder": folder,
        "num_calibration_images": num_calibration_images,
        "seed": seed,
        "golden": golden,
        "form": form,
        "spikes": spikes or None,
    }
    named = {name: value for name, value in given.items() if value is not None}
    for name in named:
        if name not in OF[to]:
            option = "--fold-thresholds" if name == "fold" else f"--{name.replace('_', '-')}"
            raise RecipeError(f"has no effect with --to {to}", where=option, remedy="leave it out")
    network = options.load(network_folder, device)
    write: dict[str, Callable[..., Answer]] = {"nir": _nir, "integers": _integers, "onnx": _onnx}
    return write[to](network, out, overwrite, **named)


def _nir(
    network: SpikingNetwork,
    out: Path,
    overwrite: bool,
    approximate: bool = False,
    reset: Literal["value", "subtract"] = "value",
    fold: bool = False,
    fires_when: FiresWhen | None = None,
) -> Answer:
    folded = fold_thresholds(network) if fold else network
    written = export_nir(folded, out, approximate, reset=reset, fires_when=fires_when, overwrite=overwrite)

    def show(console: Console) -> None:
        for loss in written.losses:
            console.print(f"Not exact in other simulators: {loss}.", soft_wrap=True)
        how = "exactly" if written.exact else "approximately; rheobase.exchange.import_nir restores it exactly"
        console.print(f"{len(network.sites)} sites written {how}. Saved in {written.path}.", soft_wrap=True)

    document = {
        "path": str(written.path),
        "exact": written.exact,
        "reset": written.reset,
        "fires_when": written.fires_when,
        "losses": [str(loss) for loss in written.losses],
        "sites": written.sites,
    }
    return Answer(document, show)


def _integers(
    network: SpikingNetwork,
    out: Path,
    overwrite: bool,
    data: str | None = None,
    folder: str | None = None,
    golden: int | None = None,
    **how: Any,
) -> Answer:
    chip = profile(how.pop("target", "generic"))
    if data is None:
        raise DataError(
            "are missing, on which potentials beyond their width are counted",
            where="calibration images",
            remedy="give --data with training images",
        )
    images = options.Source(data, folder, None).seen_by(network)
    limit = how.get("num_calibration_images", NUM_CALIBRATION_IMAGES)
    read = readers.read_all(images.read(seed=how.get("seed", 0), limit=limit), progress=show_progress())
    checked = None if golden is None else _first(read, golden)
    whole = integers(network, chip, calibration=read, **how)
    path = store.save(whole, out, overwrite=overwrite)
    vectors = None if checked is None else write_golden_vectors(whole, checked, path / store.GOLDEN_FILE)
    bits = whole.units.target

    def show(console: Console) -> None:
        widths = f"{bits.weights}-bit weights, {bits.biases}-bit biases, {bits.state}-bit potentials"
        console.print(f"Whole numbers for {bits.name}: {widths}.", soft_wrap=True)
        for note in whole.provenance.notes[-1:]:
            console.print(f"{note}.", soft_wrap=True)
        if vectors is not None:
            console.print(f"Spikes of every site for {golden} images in {vectors}.", soft_wrap=True)
        console.print(f"Saved in {path}.", soft_wrap=True)

    document = {"path": str(path), "units": whole.units, "notes": whole.provenance.notes}
    return Answer({**document, "golden": None if vectors is None else str(vectors)}, show)


def _first(data: Batches, count: int) -> Tensor:
    """The first images."""
    found: list[Tensor] = []
    for images, _ in batches(data, where="--data", labels=False):
        found.append(images[: count - sum(map(len, found))])
        if sum(map(len, found)) == count:
            return torch.cat(found)
    reason = f"has {sum(map(len, found))} images, {count} golden vectors were requested"
    raise DataError(reason, where="--data", remedy="give more images, or a smaller --golden")


def _onnx(network: SpikingNetwork, out: Path, overwrite: bool, **how: Any) -> Answer:
    written = export_onnx(network, out, overwrite=overwrite, **how)

    def show(console: Console) -> None:
        what = "the closed form" if written.form == "counts" else f"{written.timesteps} steps"
        console.print(f"{len(network.sites)} sites in int{written.bits}, {what}.", soft_wrap=True)
        for node in written.exact_floats:
            console.print(f"{node}: compares whole numbers in floating point, exactly.", soft_wrap=True)
        console.print(f"Saved in {written.path}.", soft_wrap=True)

    return Answer({**asdict(written), "path": str(written.path)}, show)
