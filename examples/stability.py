"""FTBC, Fig. 3 (Wu et al. 2024): accuracy on held-out calibration images after every iteration, for several T.

    python examples/stability.py
    python examples/stability.py --timesteps 2 4 8 --iterations 20 --figure stability.png

A curve that still rises needs more iterations; one that jumps needs a smaller ``alpha``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib import pyplot

import rheobase as rb
from rheobase.zoo.digits import digits, train

Curve = list[dict[str, Any]]


def curve(
    model: torch.nn.Module, data: tuple[torch.Tensor, torch.Tensor], timesteps: int, iterations: int, **options: Any
) -> Curve:
    """One record for each iteration from 0: its number, accuracy, agreement with the analog network, logit error.

    ``options`` are further ones of ``rb.FTBC``. Its patience is disabled, so a curve ends early only if biases diverge.
    """
    recipe = rb.FTBC(timesteps=timesteps, iterations=iterations, patience=iterations, **options)
    snn = rb.convert(model, recipe, calibration=data)
    (history,) = (record["history"] for record in snn.provenance.passes if record["history"])
    return history


def draw(curves: dict[int, Curve], path: str) -> None:
    """Draw accuracy against iterations, one curve for each T."""
    figure, axes = pyplot.subplots(layout="constrained")
    for timesteps, points in curves.items():
        accuracy = [100 * point["accuracy"] for point in points]
        axes.plot([point["iteration"] for point in points], accuracy, marker="o", label=f"T = {timesteps}")
    axes.set(xlabel="calibration iterations", ylabel="accuracy on held-out images (%)")
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a network on the digits and print one row for each T and iteration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10, help="of the training")
    parser.add_argument("--figure")
    options = parser.parse_args(arguments)
    data = digits().train
    model = train(data, epochs=options.epochs, seed=0)
    curves = {timesteps: curve(model, data, timesteps, options.iterations) for timesteps in options.timesteps}
    for timesteps, points in curves.items():
        for point in points:
            print(
                f"T = {timesteps}, iteration {point['iteration']}: accuracy {100 * point['accuracy']:.2f} %, "
                f"agreement with the analog network {100 * point['agreement']:.2f} %, "
                f"logit error {point['logit_error']:.3f}"
            )
    if options.figure:
        draw(curves, options.figure)


if __name__ == "__main__":
    main()
