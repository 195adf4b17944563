r"""PASCAL's cost model (Ramesh & Srinivasan, section 4.2): its neurons compared with integrate-and-fire neurons.

    python examples/pascal_cost.py

.. math::
    r_E = \frac{1 + (5L - 2) r'}{1 + L r'}, \qquad T_{eff} = \frac{1}{n} \sum_l r_E^l \, T^l

A PASCAL neuron makes 5L − 2 additions, an integrate-and-fire neuron L; r' is one addition divided by the additions of
the neuron's weights. By the paper's convention these are C_in K_h K_w (residual branches included) times 0.75 spikes in
all L steps. With images they are the operations that :func:`rheobase.energy` counts, where the first layer multiplies.

The paper's figures for VGG-16 on CIFAR (T_norm 4.21, T_eff 2.13 and 4.54) are reproduced with hidden layers of 512, not
of the 4096 stated in its appendix A.5 (4.20, 2.12, 4.51); that for ImageNet (18.37) if the readout, which has no
neurons, counts as a layer. For ResNets the paper gives 8.22 and 8.17, its equations 8.77 and 8.50.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import torch

import rheobase as rb
from rheobase.zoo.digits import digits, train

SPIKE_RATE = 0.75
"""Spikes of a neuron in all its steps: the paper's convention (below Eq. 13)."""


class Layer(NamedTuple):
    """A site, or the readout.

    Attributes:
        name: of the site, or ``"readout"``.
        levels: L = T.
        neurons: number of neurons, or outputs of the readout.
        relative: r', operations of the neurons in one step / operations of the weights before them.
    """

    name: str
    levels: int
    neurons: int
    relative: float

    @property
    def ratio(self) -> float:
        """r_E, energy with PASCAL's neurons / energy with integrate-and-fire neurons (Eq. 10)."""
        return energy_ratio(self.levels, self.relative)


def energy_ratio(levels: int, relative: float) -> float:
    """r_E of a layer (Eq. 10)."""
    return (1 + (5 * levels - 2) * relative) / (1 + levels * relative)


def layers(snn: rb.SpikingNetwork, images: torch.Tensor | None = None, *, readout: bool = False) -> list[Layer]:
    """Measure r' of every layer on images, or compute it by the paper's convention; ``readout`` counts as a layer."""
    found = rb.energy(snn, images, spike_rate=SPIKE_RATE if images is None else None)
    price = found.costs.mac / found.costs.ac  # of a multiplication, in additions
    outputs = snn(torch.zeros(1, *snn.graph.input_shape, dtype=snn.graph.dtype)).numel()
    rows = []
    for row in found.rows if readout else found.rows[:-1]:
        neurons = row.neurons or outputs
        work = row.ann_macs_padded * SPIKE_RATE if images is None else row.acs + row.macs * price
        rows.append(Layer(row.layer, row.timesteps or snn.timesteps, neurons, neurons / work))
    return rows


def effective_timesteps(rows: Sequence[Layer]) -> float:
    """T_eff, mean of r_E · T over the layers (Eq. 16): T_norm (Eq. 13) if all layers have the same T."""
    return sum(row.ratio * row.levels for row in rows) / len(rows)


def network_ratio(rows: Sequence[Layer]) -> float:
    """r_E of the whole network (Eq. 14): the mean over layers, weighted by their energy."""
    plain = [row.neurons * (1 / row.relative + row.levels) for row in rows]
    return sum(energy * row.ratio for energy, row in zip(plain, rows, strict=True)) / sum(plain)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print r' and r_E of every layer of a small network, by the paper's convention and with measured spikes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10, help="of the training")
    options = parser.parse_args(arguments)
    data, recipe = digits(), rb.Pascal(levels=options.levels)
    model = rb.quantise(train(data.train, options.epochs, seed=0), recipe, calibration=data.train)
    snn = rb.convert(model, rb.Pascal())
    for title, images in (("0.75 spikes a neuron", None), ("measured spikes", data.test[0])):
        rows = layers(snn, images)
        print(f"{title}: T_eff = {effective_timesteps(rows):.2f}, r_E of the network {network_ratio(rows):.4f}")
        for row in rows:
            print(f"  {row.name:12} L = {row.levels}  r' = {row.relative:.5f}  r_E = {row.ratio:.4f}")


if __name__ == "__main__":
    main()
