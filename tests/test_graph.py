"""Tracing, rewriting, folding and refusing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import networks
import rheobase as rb
from conftest import grid_graph, grid_images
from rheobase.core.errors import DataError, ModelError, TraceError
from rheobase.graph import capture, fold_batch_norm, replace_max_pool
from rheobase.graph.sites import site_table, split_at_sites
from rheobase.graph.trace.agreement import relative_difference


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.GRID)
def test_the_rewritten_network_computes_the_same(name: str) -> None:
    model, images = networks.build(name), grid_images(name)
    with torch.no_grad():
        assert relative_difference(grid_graph(name)(images), model(images)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", [*networks.GRID, "MaxPoolVGG"])
def test_every_activation_call_is_a_site(name: str) -> None:
    assert len(grid_graph(name).sites) == networks.SITES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*networks.GRID, "MaxPoolVGG"])
def test_no_batch_norm_is_left(name: str) -> None:
    assert not [n for n in grid_graph(name).nodes if n.operation in ("batch_norm", "refused")]


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.GRID)
def test_the_model_is_not_changed(name: str) -> None:
    model = networks.build(name).train()
    before = copy.deepcopy(model.state_dict())
    capture(model, grid_images(name))
    assert all(module.training for module in model.modules())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.UNSUPPORTED)
def test_refusals_name_the_place_and_the_remedy(name: str) -> None:
    make, shape, word = networks.UNSUPPORTED[name]
    example = torch.randn(2, *shape)
    with pytest.raises(TraceError, match=word) as caught:
        capture(make(), example).raise_if_refused()
    assert "Remedy" in str(caught.value)
    with pytest.raises(TraceError, match=word):
        rb.convert(make(), rb.RateCoding(), calibration=example)


def test_all_refusals_are_listed_at_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.LayerNorm(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(TraceError) as caught:
        capture(model, torch.randn(2, 4)).raise_if_refused()
    assert "1 (SiLU)" in str(caught.value)
    assert "2 (LayerNorm)" in str(caught.value)


# -- each spelling of an activation and of an affine operation --------------------------------------------------------


class Call(nn.Module):
    """``function`` between two convolutions."""

    def __init__(self, function, channels_after: int | None = 4) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.first, self.function = nn.Conv2d(3, 4, 3), function
        self.last = nn.LazyLinear(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)).flatten(1))


ACTIVATIONS = {
    "F.relu": (F.relu, None),
    "F.relu in place": (lambda x: F.relu(x, inplace=True), None),
    "torch.relu": (torch.relu, None),
    "torch.relu_": (torch.relu_, None),
    "x.relu": (lambda x: x.relu(), None),
    "x.relu_": (lambda x: x.relu_(), None),
    "nn.ReLU": (nn.ReLU(), None),
    "nn.ReLU in place": (nn.ReLU(inplace=True), None),
    "nn.ReLU6": (nn.ReLU6(), 6.0),
    "F.relu6": (F.relu6, 6.0),
    "nn.Hardtanh": (nn.Hardtanh(0, 0.5), 0.5),
    "F.hardtanh": (lambda x: F.hardtanh(x, 0.0, 0.7), 0.7),
    "clamp": (lambda x: x.clamp(0, 0.4), 0.4),
    "clamp_": (lambda x: x.clamp_(0, 0.4), 0.4),
    "torch.clamp min": (lambda x: torch.clamp(x, min=0), None),
    "clamp_min": (lambda x: x.clamp_min(0), None),
}


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ACTIVATIONS)
def test_activation_spellings(spelling: str) -> None:
    function, upper = ACTIVATIONS[spelling]
    model, images = Call(function), torch.randn(5, 3, 6, 6)
    expected = model(images).detach()
    graph = capture(model, images).graph
    assert [node.attributes["upper"] for node in graph.sites] == [upper]
    torch.testing.assert_close(graph(images), expected)


def in_place_add(x: torch.Tensor) -> torch.Tensor:
    y = F.relu(x)
    y += x
    return y


def read_after_in_place(x: torch.Tensor) -> torch.Tensor:
    y = F.relu(x, inplace=True)
    return y + x  # x is the rectified tensor by now


def swap_left_side(x: torch.Tensor) -> torch.Tensor:
    return 1.0 - F.relu(x)


AFFINE = {
    "+": lambda x: F.relu(x) + x,
    "+=": in_place_add,
    "torch.add alpha": lambda x: torch.add(F.relu(x), x, alpha=0.3),
    "read after in-place": read_after_in_place,
    "-": lambda x: F.relu(x) - x,
    "constant - x": swap_left_side,
    "-x": lambda x: -F.relu(x),
    "* scalar": lambda x: 0.1 * F.relu(x),
    "/ scalar": lambda x: F.relu(x) / 3,
    "* buffer": lambda x: F.relu(x) * torch.arange(1.0, 5.0).reshape(4, 1, 1),
    "+ batched constant": lambda x: F.relu(x) + torch.ones(x.shape[0], 4, 1, 1),
    "torch.cat": lambda x: torch.cat([F.relu(x), x], 1),
    "cat zeros": lambda x: torch.cat([F.relu(x), torch.zeros(x.shape[0], 2, *x.shape[2:])], 1),
    "stack": lambda x: torch.stack([F.relu(x), x], 2),
    "avg_pool2d whole": lambda x: F.avg_pool2d(F.relu(x), x.size()[3]),
    "avg_pool2d padded": lambda x: F.avg_pool2d(F.relu(x), 3, 2, 1, count_include_pad=False),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(F.relu(x), (2, 3)),
    "mean": lambda x: F.relu(x).mean((2, 3)),
    "mean keepdim": lambda x: F.relu(x).mean([-1], keepdim=True),
    "sum": lambda x: F.relu(x).sum((2, 3)),
    "view": lambda x: F.relu(x).view(x.size(0), -1),
    "reshape": lambda x: F.relu(x).reshape(-1, 2, 2, 16),
    "flatten": lambda x: torch.flatten(F.relu(x), 1),
    "squeeze": lambda x: F.relu(x).unsqueeze(1).squeeze(1),
    "permute": lambda x: F.relu(x).permute(0, 2, 3, 1),
    "transpose": lambda x: F.relu(x).transpose(1, 2),
    "slice": lambda x: F.relu(x)[:, 1:3, ::2, -2:],
    "select": lambda x: F.relu(x)[:, 2],
    "narrow": lambda x: F.relu(x).narrow(1, 1, 2),
    "chunk": lambda x: torch.cat(F.relu(x).chunk(2, 1)[::-1], 1),
    "split": lambda x: F.relu(x).split([1, 3], 1)[1],
    "unbind": lambda x: F.relu(x).unbind(1)[0],
    "F.pad": lambda x: F.pad(F.relu(x), (1, 2, 0, 1, 1, 1)),
    "F.pad value": lambda x: F.pad(F.relu(x), (1, 1), value=0.5),
    "F.pad reflect": lambda x: F.pad(F.relu(x), (1, 1, 2, 2), mode="reflect"),
    "F.pad replicate": lambda x: F.pad(F.relu(x), (1, 1, 2, 2), mode="replicate"),
    "upsample nearest": lambda x: F.interpolate(F.relu(x), scale_factor=2),
    "upsample bilinear": lambda x: F.interpolate(F.relu(x), size=(7, 9), mode="bilinear", align_corners=True),
    "matmul": lambda x: F.relu(x).flatten(1) @ torch.arange(128.0).reshape(64, 2).cos(),
    "dropout": lambda x: F.dropout(F.relu(x), training=False),
    "contiguous": lambda x: F.relu(x).transpose(2, 3).contiguous(),
    "standardised weight": lambda x: F.conv2d(F.relu(x), torch.ones(2, 4, 1, 1) - torch.ones(2, 4, 1, 1).mean() / 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("spelling", AFFINE)
def test_affine_spellings(spelling: str) -> None:
    torch.manual_seed(0)
    model, images = Call(AFFINE[spelling]), torch.randn(5, 3, 6, 6)
    expected = model(images).detach()
    found = capture(model, images)
    found.raise_if_refused()
    assert len(found.graph.sites) == 1
    for batch in (images, images[:1], images[:3]):
        torch.testing.assert_close(found.graph(batch), expected[: len(batch)])


LAYERS = {
    "conv1d": (nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), (3, 8)),
    "conv2d grouped dilated": (
        nn.Conv2d(4, 8, 3, groups=2, dilation=2, padding=2),
        nn.BatchNorm2d(8),
        (4, 7, 7),
    ),
    "conv2d same": (nn.Conv2d(3, 4, 4, padding="same"), nn.BatchNorm2d(4), (3, 7, 7)),
    "conv2d circular": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(4), (3, 7, 7)),
    "conv2d no bias": (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), (3, 7, 7)),
    "conv3d": (nn.Conv3d(2, 3, 2, stride=2), nn.BatchNorm3d(3), (2, 4, 4, 4)),
    "transposed 1d": (nn.ConvTranspose1d(3, 4, 3, stride=2), nn.BatchNorm1d(4), (3, 8)),
    "transposed 2d": (nn.ConvTranspose2d(3, 5, 3, stride=2, output_padding=1), nn.BatchNorm2d(5), (3, 4, 4)),
    "transposed grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2, padding=1), nn.BatchNorm2d(6), (4, 5, 5)),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, 2), nn.BatchNorm3d(3), (2, 3, 3, 3)),
    "linear": (nn.Linear(6, 5), nn.BatchNorm1d(5), (6,)),
    "linear on tokens": (nn.Linear(6, 5), nn.BatchNorm1d(3), (3, 6)),
    "norm without affine": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), (3, 7, 7)),
    "norm alone": (nn.Identity(), nn.BatchNorm2d(3), (3, 7, 7)),
}


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_and_the_batch_norm_after_them(layer: str) -> None:
    linear, norm, shape = LAYERS[layer]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, value in norm.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.3, 2.0) if "var" in name or "weight" in name else value.normal_()
    model = nn.Sequential(linear, norm, nn.ReLU(), nn.Flatten()).eval()
    images = torch.randn(3, *shape)
    graph, notes = fold_batch_norm(capture(model, images).graph)
    operations = [n.operation for n in graph.nodes]
    assert "batch_norm" not in operations
    alone = layer in ("norm alone", "linear on tokens")
    assert (("affine" in operations) and bool(notes)) == alone
    with torch.no_grad():
        assert relative_difference(graph(images), model(images)) < 1e-5


def test_a_layer_that_two_read_is_not_folded_into() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.norm.running_mean.normal_()  # type: ignore[union-attr]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return F.relu(self.norm(y)) + y

    model, images = Both().eval(), torch.randn(2, 3, 4, 4)
    graph, _ = fold_batch_norm(capture(model, images).graph)
    torch.testing.assert_close(graph(images), model(images).detach())


def test_a_reused_convolution_keeps_its_own_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))
            for norm in self.norms:
                norm.running_mean.normal_()  # type: ignore[union-attr, operator]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for norm in self.norms:
                x = F.relu(norm(self.conv(x)))
            return x

    model, images = Twice().eval(), torch.randn(2, 3, 4, 4)
    graph, _ = fold_batch_norm(capture(model, images).graph)
    torch.testing.assert_close(graph(images), model(images).detach())


# -- the site table ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sites_are_named_after_modules_and_calls() -> None:
    names = [site.name for site in site_table(grid_graph("ReusedReluResNet"))]
    assert len(set(names)) == len(names)
    assert any(name.endswith(":2") for name in names)


def test_previous_and_next_sites_of_a_residual_block() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.a(x))
            return F.relu(x + F.relu(self.b(x)) @ torch.eye(4)) @ torch.eye(4)

    first, inner, last = site_table(capture(Block(), torch.randn(2, 4)).graph)
    assert first.previous == ()
    assert first.next == (inner.name, last.name)
    assert inner.previous == (first.name,)
    assert last.previous == (first.name, inner.name)
    assert last.next == ()


@pytest.mark.parametrize("name", networks.GRID)
def test_the_three_stretches_are_the_whole_graph(name: str) -> None:
    graph = grid_graph(name)
    before, between, readout = split_at_sites(graph)
    names = [n.name for part in (before, between, readout) for n in part]
    assert sorted(names) == sorted(n.name for n in graph.nodes)
    assert not any(n.operation == "site" for n in (*before, *readout))


# -- affinity: what lets a time-mean be pushed through a segment ------------------------------------------------------


@given(name=st.sampled_from(sorted(networks.GRID)), seed=st.integers(0, 2**31), weight=st.floats(0, 1))
def test_every_operation_is_affine(name: str, seed: int, weight: float) -> None:
    from rheobase.graph.operations import OPERATIONS
    from rheobase.signals.signal import Constant

    graph = grid_graph(name).double()
    try:
        generator = torch.Generator().manual_seed(seed)
        shapes = {n.name: n.shape for n in graph.nodes}
        for node in graph.nodes:
            if node.operation not in OPERATIONS or not OPERATIONS[node.operation].affine:
                continue
            x, y = (
                [torch.randn(2, *shapes[i], generator=generator, dtype=torch.float64) for i in node.inputs]
                for _ in "xy"
            )
            mix = [weight * a + (1 - weight) * b for a, b in zip(x, y, strict=True)]
            fx, fy, fmix = (graph.compute(node, *map(Constant, inputs)).values for inputs in (x, y, mix))
            torch.testing.assert_close(fmix, weight * fx + (1 - weight) * fy)
    finally:
        graph.float()


# -- max-pooling ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_max_pool_needs_a_choice() -> None:
    model, images = networks.build("MaxPoolVGG"), grid_images("MaxPoolVGG")
    with pytest.raises(TraceError, match='max_pool="gate"'):
        rb.convert(model, rb.RateCoding(timesteps=2), calibration=images)
    assert not rb.inspect(model, images).convertible


def test_max_pool_by_average_says_what_it_changed() -> None:
    model, images = networks.build("MaxPoolVGG"), grid_images("MaxPoolVGG")
    snn = rb.convert(model, rb.RateCoding(timesteps=2), calibration=images, max_pool="average")
    assert any("logits change by up to" in note for note in snn.provenance.notes)
    assert "max_pool" not in [n.operation for n in snn.graph.nodes]


@pytest.mark.parametrize("size", [1, (3, 2)])
def test_adaptive_max_pooling(size: Any) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(size), nn.Flatten())
    images = torch.randn(5, 1, 8, 8)
    graph = replace_max_pool(capture(model, images[:2]), "gate").graph
    torch.testing.assert_close(graph(images), model(images))
    model[2].output_size = 4
    with pytest.raises(TraceError, match=r"windows of different sizes.*such as 1"):
        replace_max_pool(capture(model, images[:2]), "gate").raise_if_refused()


def test_a_dilated_max_pool_has_no_average() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2, dilation=2), nn.Flatten())
    found = replace_max_pool(capture(model, torch.randn(2, 1, 8, 8)), "average")
    assert "dilated" in str(found.refusals[0])


# -- bad input --------------------------------------------------------------------------------------------------------


def test_non_finite_weights_are_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    model[2].weight.data[0, 1] = float("nan")
    with pytest.raises(ModelError, match=r"weight '2\.weight': 1 of 6"):
        capture(model, torch.randn(2, 3))


@pytest.mark.parametrize(
    ("example", "word"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), "uint8"),
        (torch.full((2, 3), float("inf")), "infinite"),
        (torch.zeros(0, 3), "not a batch"),
        ([1.0], "list"),
    ],
)
def test_bad_examples(example: torch.Tensor, word: str) -> None:
    with pytest.raises(DataError, match=word):
        capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), example)


def test_an_example_of_the_wrong_size_says_so() -> None:
    with pytest.raises(TraceError, match=r"example of shape \[2, 5\]"):
        capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.zeros(2, 5))


def test_operations_across_the_batch_are_refused() -> None:
    class Centred(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(x - x.mean(0, keepdim=True))

    with pytest.raises(TraceError, match="batch"):
        capture(Centred(), torch.randn(3, 4)).raise_if_refused()


@pytest.mark.slow
def test_inspection_shows_everything_without_raising() -> None:
    make, shape, _ = networks.UNSUPPORTED["SiLU"]
    inspection = rb.inspect(make(), torch.randn(1, *shape))
    assert not inspection.convertible
    assert "silu" in str(inspection)
    text = str(rb.inspect(networks.build("MobileNetV2"), grid_images("MobileNetV2")))
    assert "saturates at" in text
    assert "6" in text
