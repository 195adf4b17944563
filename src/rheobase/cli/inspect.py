"""``rheobase inspect``."""

from __future__ import annotations

from typing import Annotated

import torch
import yaml
from rich.console import Console
from torch import Tensor
from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command
from rheobase.cli.output import network_document, show_notes, span_of_thresholds
from rheobase.core.errors import DataError
from rheobase.core.results import Column, Table
from rheobase.exchange import onnx, store
from rheobase.graph.sites import Site
from rheobase.measure._inspect import inspect as inspect_network
from rheobase.measure._inspect import site_columns
from rheobase.network.spiking_network import SpikingNetwork


@command
def inspect(
    model: options.Model,
    weights: options.Weights,
    reading: options.Reading,
    placement: options.Placement,
    output: options.Output = None,
    nonlinear: options.NonlinearChoice = "refuse",
    input_shape: Annotated[str | None, Option(help="Shape of one input, as 3,32,32.")] = None,
    data: Annotated[str | None, Option(help=f"Read the input shape from data: {options.SPEC}.")] = None,
) -> Answer:
    """List the sites of a network, its rewrites, and its refusals with their remedies."""
    saved = options.is_folder(model)
    unused = {"--output": output, "--input-shape": input_shape, "--data": data} if saved else {}
    names = weights.given() if saved else []
    names += [name for name, value in unused.items() if value is not None]
    if reading != options.Reading() and (data is None or saved):
        names.append("--folder or preprocessing")
    if saved and placement != options.Placement():
        names.append("--sites")
    if saved and nonlinear != "refuse":
        names.append("--nonlinear")
    if names:
        place = f"{model}, a saved network" if saved else "--input-shape"
        raise DataError(f"has no effect on {place}", where=names[0], remedy="leave it out")
    if saved:
        network = store.load(model)
        return Answer(network_document(network, model), lambda console: _show_network(network, console))
    example = _example(model, input_shape, data, reading)
    trained = weights.load(model, lambda: example)
    found = inspect_network(trained, example, output=output, nonlinear=nonlinear, sites=placement.sites)
    return Answer(found.to_json(), found.print, code=0 if found.convertible else 1)


def _example(model: str, input_shape: str | None, data: str | None, reading: options.Reading) -> Tensor:
    """Inputs of the given shape, or of the shape that an ONNX file states."""
    if input_shape is None and data is None and onnx.is_onnx(model) and (stated := onnx.input_shape(model)):
        return _random(stated)
    if (input_shape is None) == (data is None):
        raise DataError(
            "is missing" if data is None else "cannot be combined with --data",
            where="--input-shape",
            remedy="give either --input-shape, such as 3,32,32, or --data",
        )
    if data is not None:
        return reading.of(data).example()
    shape = options.numbers(input_shape or "", int, "--input-shape")
    if min(shape) < 1:
        raise DataError(f"is {input_shape!r}", where="--input-shape", remedy="give sizes of 1 or more")
    return _random(shape)


def _random(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


def _show_network(network: SpikingNetwork, console: Console) -> None:
    def threshold(site: Site) -> str | None:
        span = span_of_thresholds(network, site.index)["threshold"]
        return span and " – ".join(dict.fromkeys(f"{value:.3g}" for value in span))

    columns = site_columns(
        Column("alphabet", lambda site: network.neuron(site.name).alphabet, align="left"),
        Column("threshold", threshold, align="left"),
        Column("silent", lambda site: span_of_thresholds(network, site.index)["silent_channels"] or None),
    )
    title = (
        f"{network.recipe.get('name', 'spiking network')}, T = {network.timesteps}, alphabet {network.alphabet.label}"
    )
    Table(columns, network.sites, title).print(console)
    console.print(f"Input {'×'.join(map(str, network.graph.input_shape))}. Recipe:")
    console.print(yaml.safe_dump(network.recipe, sort_keys=False).rstrip(), soft_wrap=True)
    show_notes(network, console)
