"""Latency worked by hand on small networks: chains, branches, gates, and sites that differ in T."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import networks
import rheobase as rb
from conftest import grid_images, grid_snn
from rheobase.core.errors import RecipeError
from tables import unpadded


def chain(*levels: int) -> nn.Module:
    parts: list[nn.Module] = []
    for count in levels:
        parts += [nn.Linear(3, 3), rb.QCFS(count, 1.0)]
    return nn.Sequential(*parts, nn.Linear(3, 2)).eval()


class Branches(nn.Module):
    """A stem, a long and a short branch, a sum, a last site."""

    def __init__(self, stem: int, long: tuple[int, int], short: int, last: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(3, 3) for _ in range(4))
        self.stem, self.short, self.last = (rb.QCFS(n, 1.0) for n in (stem, short, last))
        self.long1, self.long2 = (rb.QCFS(n, 1.0) for n in long)
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.a(x))
        x = self.long2(self.c(self.long1(self.b(x)))) + self.short(self.d(x))
        return self.out(self.last(x))


def pascal(net: nn.Module) -> rb.SpikingNetwork:
    return rb.convert(net, rb.Pascal(), example=torch.rand(4, 3))


def spans(found: rb.measure.Latency) -> list[tuple[int, int]]:
    return [(row.start, row.end) for row in found.rows]


def test_a_chain_that_streams() -> None:
    found = rb.latency(grid_snn("MLP"))
    assert spans(found) == [(1, 4)] * 3
    assert (found.first, found.final, found.streaming, found.interval, found.stalls) == (1, 4, 4, 4, 0)
    assert not any(row.barrier for row in found.rows)
    assert found.critical_path == tuple(row.site for row in found.rows)
    assert rb.latency(grid_snn("MLP"), timesteps=9).final == 9


def test_a_chain_that_waits_takes_the_sum() -> None:
    found = rb.latency(pascal(chain(4, 2, 5)))
    # 1-4, then 5-6, then 7-11; stage 2: none for the image, max(4, 2) - 1, max(2, 5) - 1
    assert spans(found) == [(1, 4), (5, 6), (7, 11)]
    assert [row.barrier for row in found.rows] == [False, True, True]
    assert [row.internal for row in found.rows] == [0, 3, 4]
    assert (found.first, found.final, found.streaming, found.internal) == (7, 11, 5, 7)
    # one image every 5 steps: idle for 1, 3 and 0 of them
    assert ([row.stall for row in found.rows], found.interval, found.stalls) == ([1, 3, 0], 5, 4)
    even = rb.latency(rb.convert(chain(4, 4, 4), rb.QVM(), example=torch.rand(4, 3)))
    assert (even.first, even.final, even.internal, even.stalls) == (9, 12, 0, 0)


@pytest.mark.slow
def test_branches_wait_for_the_later_one() -> None:
    found = rb.latency(pascal(Branches(stem=2, long=(3, 1), short=8, last=4)))
    by_name = {row.site: (row.start, row.end) for row in found.rows}
    # stem 1-2; short 3-10; long 3-5, then 6-6; the sum has all its steps after 10: 11-14
    assert by_name == {"stem": (1, 2), "short": (3, 10), "long1": (3, 5), "long2": (6, 6), "last": (11, 14)}
    assert found.critical_path == ("stem", "short", "last")
    assert (found.first, found.final, found.interval, found.stalls) == (11, 14, 8, 6 + 5 + 7 + 0 + 4)
    found = rb.latency(pascal(Branches(stem=2, long=(3, 5), short=4, last=1)))
    # long 3-5 and 6-10, short 3-6: 11-11
    assert found.critical_path == ("stem", "long1", "long2", "last")
    assert (found.first, found.final) == (11, 11)


def test_a_readout_of_two_sites() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(6, 2)
            self.one, self.two = rb.QCFS(6, 1.0), rb.QCFS(2, 1.0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(self.a(x))
            return self.c(torch.cat([x, self.two(self.b(x))], 1))

    found = rb.latency(pascal(Two()))
    # 1-6 and 7-8; the readout needs a step of both for its first answer
    assert (found.first, found.final, found.critical_path) == (7, 8, ("one", "two"))


@pytest.mark.parametrize(("recipe", "expected"), [(rb.RateCoding(timesteps=4), 4), (rb.QVM(levels=4), 4 * 4 + 3 * 4)])
def test_gates_wait_where_the_network_does(recipe: rb.Recipe, expected: int) -> None:
    images = grid_images("VGG")
    net: nn.Module = networks.build("MaxPoolVGG")
    if recipe.activation is None:
        snn = rb.convert(net, recipe, calibration=images, max_pool="gate")
    else:
        snn = rb.convert(rb.quantise(net, recipe, calibration=images, max_pool="gate"), recipe)
    found = rb.latency(snn)
    # four sites, three pools: behind sites 1, 3 and 4; the last one is read out
    assert len(found.rows) == 4
    assert found.final == expected
    gates = [node.name for node in snn.graph.nodes if node.operation == "max_pool"]
    assert [name in found.critical_path for name in gates] == [recipe.activation is not None] * 3
    assert f"Critical path: {' → '.join(found.critical_path)}." in str(found)


@pytest.mark.parametrize("name", ["OptionAResNet", "DenseNet", "UNet"])
def test_what_streams_ends_after_its_steps(name: str) -> None:
    found = rb.latency(grid_snn(name))
    assert (found.first, found.final) == (1, 4)
    assert len(found.critical_path) <= len(found.rows)
    previous = {site.name: site.previous for site in grid_snn(name).sites}
    for before, site in zip(found.critical_path, found.critical_path[1:], strict=False):
        assert before in previous[site]


def test_trains_are_aligned_one_by_one_before_neurons_that_stream() -> None:
    """Integrate-and-fire neurons with a T of their own: a train of the site's T passes on, another has to end first."""
    net = Branches(stem=2, long=(4, 4), short=2, last=4)
    steps = {"stem": 2, "long1": 4, "long2": 4, "short": 2, "last": 4}
    recipe = rb.Recipe(
        name="mixed",
        timesteps=None,
        neuron=rb.methods.IntegrateFireNeuron(timesteps=steps),
        calibration=rb.RateCoding(threshold="max", granularity="layer").calibration,
    )
    snn = rb.convert(net, recipe, calibration=3 * torch.rand(20, 3))
    found = {row.site: row for row in rb.latency(snn).rows}
    # stem 1-2; short streams with it; long1 waits for it, 3-6, and long2 streams; of the sum, long2 from 3 on, short's
    # mean from 3 on
    spans = {name: (row.start, row.end) for name, row in found.items()}
    assert spans == {"stem": (1, 2), "short": (1, 2), "long1": (3, 6), "long2": (3, 6), "last": (3, 6)}
    assert [name for name, row in found.items() if row.barrier] == ["long1"]
    assert (rb.latency(snn).first, rb.latency(snn).final, rb.latency(snn).stalls) == (3, 6, 4)


@pytest.mark.slow
def test_table_and_json() -> None:
    found = rb.latency(pascal(chain(4, 2)))
    written = json.loads(json.dumps(found.to_json()))
    assert written["final"] == found.final == 6
    assert written["rows"][1]["start"] == 5
    lines = unpadded(str(found)).splitlines()
    assert lines[3].startswith("| 3 | 2 | {0, 1} | 5 | 6 | yes |")
    assert "final logits after step 6 (4 if" in lines[-1]
    with pytest.raises(RecipeError, match="cannot run for 7 steps"):
        rb.latency(pascal(chain(4, 2)), timesteps=7)
