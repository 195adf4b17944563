"""How many recipes NIR can say exactly, how many are approximated, how many refused.

Every method of the library with its defaults at T = 4 (those that train: L = 4, or a mean T of 4), and the variants
that differ in what NIR can say, on the demonstration's network and real digits. "exact": with reset by subtraction, as
sinabs and snnTorch read IF; "approximated": restored with the same logits bit for bit by ``rb.exchange.import_nir``
only; "refused": not even that.

    python benchmarks/nir_recipes.py
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import torch
from common import HERE, record

import rheobase as rb
from rheobase.comparison._compare import at
from rheobase.methods import METHODS, Recipe
from rheobase.zoo.digits import digits, train


def recipes() -> dict[str, Recipe]:
    """Name -> recipe."""
    found = {name: at(method(), 4) for name, method in METHODS.items()}
    found["RateCoding, V0 = 0"] = rb.RateCoding(timesteps=4, initial_potential=0)
    found["SNNCalibration, advanced"] = rb.SNNCalibration(timesteps=4, pipeline="advanced")
    found["FTBC, V0 = 0"] = rb.FTBC(timesteps=4, initial_potential=0)
    return found


def outcome(snn: rb.SpikingNetwork, images: torch.Tensor, path: Path) -> tuple[str, str]:
    """(exact, approximated or refused; what is lost)."""
    try:
        rb.exchange.export_nir(snn, path, reset="subtract", overwrite=True)
        kind, lost = "exact", ""
    except rb.RheobaseError:
        try:
            written = rb.exchange.export_nir(snn, path, approximate=True, reset="subtract", overwrite=True)
        except rb.RheobaseError as error:
            return "refused", str(error)
        kind, lost = "approximated", "; ".join(sorted({loss.what for loss in written.losses}))
    assert torch.equal(rb.exchange.import_nir(path)(images), snn(images)), path
    return kind, lost


def main() -> None:
    data = digits()
    net = train(data.train, epochs=5, seed=0)
    images = data.test[0][:100]
    result: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in recipes().items():
            source = net
            if recipe.activation is not None:
                source = rb.quantise(net, recipe, calibration=data.train).eval()
            snn = rb.convert(source, recipe, calibration=data.train if recipe.calibration else None)
            kind, lost = outcome(snn, images, Path(folder) / "net.nir")
            result[name] = {"outcome": kind, **({"lost": lost} if lost else {})}
            print(f"{name:28} {kind:14} {lost}")
    count = Counter(entry["outcome"] for entry in result.values())
    print(dict(count))
    record(HERE / "nir_recipes.json", "python benchmarks/nir_recipes.py", {"count": dict(count), "recipes": result})


if __name__ == "__main__":
    main()
