"""Parts and methods from outside the package: in recipes, in files, on the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import networks
import own_neurons
import rheobase as rb
from command_line import Run, assert_refused, runner
from conftest import grid_images
from rheobase.core.errors import CalibrationError, RecipeError, StoreError
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods import METHODS, NeuronPart
from rheobase.neurons import Alphabet, ConstantCurrent, IntegrateFire, MembraneNeuron, Neuron, ParallelIF, State
from rheobase.passes import CalibrationData, CalibrationPass, Changes

pytestmark = pytest.mark.usefixtures("own_parts")


class LowerThresholds(CalibrationPass):
    """θ times a factor."""

    kind: Literal["lower_thresholds"] = "lower_thresholds"
    factor: float = 0.5

    def apply(self, network: rb.SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        for neuron in network.neurons:
            neuron.threshold = neuron.threshold * self.factor
        return Changes({site.name: ["threshold"] for site in network.sites})


class SignedIF(MembraneNeuron):
    """A spike of −θ takes back one of θ (Wang et al. 2022)."""

    kind = "my_signed"
    alphabet = Alphabet.signed(1)
    remembers = True

    def capacity(self, steps: int) -> tuple[int, int]:
        return 0, steps

    def count(self, potential: Tensor, threshold: Tensor, sent: Tensor | None) -> Tensor:
        assert sent is not None
        return (potential >= threshold).to(potential.dtype) - ((potential <= -threshold) & (sent > 0)).to(potential)


class SignedNeuron(NeuronPart):
    """SignedIF at every site."""

    kind: Literal["signed_neuron"] = "signed_neuron"
    builds = SignedIF

    def build(self, site: Site, graph: Graph) -> SignedIF:
        return SignedIF(torch.tensor(1.0), torch.tensor(0.5))


def signed() -> rb.Recipe:
    rb.register(SignedNeuron)
    rb.register(LowerThresholds)
    passes = (rb.passes.Thresholds(), LowerThresholds(factor=0.75))
    return rb.Recipe(name="signed", timesteps=4, neuron=SignedNeuron(), calibration=passes)


def convert(recipe: rb.Recipe, network: str = "MLP") -> rb.SpikingNetwork:
    return rb.convert(networks.build(network), recipe, calibration=grid_images(network))


def test_a_recipe_with_own_parts_is_a_value() -> None:
    recipe = signed()
    again = rb.Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert again.calibration[1] == LowerThresholds(factor=0.75)
    assert type(again.neuron) is SignedNeuron
    with pytest.raises(RecipeError, match=r"lower_thresholds: unknown field 'size'.*known fields: kind, factor"):
        rb.Recipe(name="x", timesteps=4, calibration=({"kind": "lower_thresholds", "size": 1},))


def test_an_own_neuron_worked_out_by_hand() -> None:
    # 1.5 fires, .5; -2.5 <= -1 and one spike out: back, -1.5; -2 but none left; 1 fires, 0
    neuron = SignedIF(torch.tensor(1.0), torch.tensor(0.0))
    currents = torch.tensor([1.5, -3.0, -0.5, 3.0]).reshape(4, 1, 1)
    assert neuron.run(currents, neuron.init((1, 1), currents[0]))[0].flatten().tolist() == [1, -1, 0, 1]


@given(seed=st.integers(0, 2**31))
def test_it_never_takes_back_what_was_not_sent(seed: int) -> None:
    currents = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(seed)) * 3
    neuron = SignedIF(torch.tensor([0.5, 1.0, 2.0]), torch.tensor(0.5))
    values, (potential, net) = neuron.run(currents, neuron.init((2, 3), currents[0]))
    assert bool((values.cumsum(0) >= 0).all())
    torch.testing.assert_close(potential + values.sum(0), 0.5 * neuron.threshold + currents.sum(0))
    torch.testing.assert_close(net * neuron.threshold, values.sum(0))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["MLP", "OptionAResNet"])
def test_converted_saved_loaded(network: str, tmp_path: Path) -> None:
    snn, images = convert(signed(), network), grid_images(network)
    assert all(type(neuron) is SignedIF for neuron in snn.neurons)
    plain = rb.convert(snn, rb.RateCoding(timesteps=4), calibration=images)
    for own, theirs in zip(snn.neurons, plain.neurons, strict=True):
        assert torch.equal(own.threshold, 0.75 * theirs.threshold)
    logits = snn(images)
    assert torch.equal(torch.cat([snn(part) for part in images.split(7)]), logits)
    *_, (_, last) = snn.stream(images)
    torch.testing.assert_close(last, logits)
    after = rb.load(rb.save(snn, tmp_path / "net"))
    assert torch.equal(after(images), logits)
    assert rb.Recipe.from_dict(after.recipe) == signed()
    negative: list[bool] = []
    snn.readouts(images, (4,), monitor=lambda site, emitted: negative.append(bool((emitted.values < 0).any())))
    assert any(negative)  # the rule is at work
    found = rb.diagnose(snn, images)
    for row in found.rows:
        assert sum(term.mean for term in row.terms.values()) == pytest.approx(row.error.mean, abs=1e-5)


def test_without_the_class_files_say_what_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = signed()
    text, folder = recipe.to_yaml(), rb.save(convert(recipe), tmp_path / "net")
    from rheobase.methods.neuron_part import NEURON_PARTS
    from rheobase.neurons import NEURONS
    from rheobase.passes import PASSES

    for known, kind in ((PASSES, "lower_thresholds"), (NEURON_PARTS, "signed_neuron"), (NEURONS, "my_signed")):
        monkeypatch.delitem(known, kind)
    with pytest.raises(RecipeError, match=r"neuron: kind 'signed_neuron' is unknown.*import the module.*calibration.1"):
        rb.Recipe.from_yaml(text)
    with pytest.raises(RecipeError, match="LowerThresholds is not registered"):
        rb.Recipe(name="x", timesteps=4, calibration=(LowerThresholds(),))
    with pytest.raises(StoreError, match=r"unknown kind 'my_signed'.*import the module that registers it"):
        rb.load(folder)


PASSES = (
    rb.passes.ScaleThresholds(images=8, sweeps=1),
    rb.passes.LocalThresholdBalancing(images=8, rounds=1),
    rb.passes.ShiftCurrent(),
    rb.passes.BiasCorrection(images=8),
    rb.passes.PotentialCorrection(images=8),
    rb.passes.WeightCalibration(images=8, iterations=2),
    rb.passes.TemporalBias(batch_size=8, iterations=2, updates=3),
    rb.passes.SurrogateCalibration(epochs=1, batch_size=8),
    rb.passes.ThroughTime(epochs=1, batch_size=8, learning_rate=1e-4),
)


@pytest.mark.slow
@pytest.mark.parametrize("neuron", [SignedNeuron, own_neurons.BurstNeuron, own_neurons.TernaryNeuron])
@pytest.mark.parametrize("own", PASSES, ids=lambda own: own.kind)
def test_every_pass_follows_the_rule_of_the_neuron(
    own: CalibrationPass, neuron: type[NeuronPart], tmp_path: Path
) -> None:
    rb.register(SignedNeuron)
    own_neurons.register()
    images = grid_images("MLP")
    passes = (rb.passes.Thresholds(), own)
    recipe = rb.Recipe(name="own", timesteps=3, neuron=neuron(), calibration=passes)
    snn = rb.convert(networks.build("MLP"), recipe, calibration=images)
    record = snn.provenance.passes[1]
    assert record["changed"] or any("kept" in note for note in record["notes"])
    logits = snn(images)
    *_, (_, last) = snn.stream(images)
    torch.testing.assert_close(last, logits)
    assert torch.equal(rb.load(rb.save(snn, tmp_path / "net"))(images), logits)
    assert rb.latency(snn).final == 3
    cost, row = rb.energy(snn, images), rb.evaluate(snn, images, [3]).rows[0]
    neurons = sum(site.neurons for site in snn.sites)
    assert cost.spikes == pytest.approx(row.spike_rate * neurons * 3)
    assert cost.events == pytest.approx(row.event_rate * neurons * 3)
    found = rb.diagnose(snn, images)
    assert sum(r.spike_rate * r.neurons for r in found.rows) == pytest.approx(row.spike_rate * neurons)


def test_passes_for_parameters_that_a_neuron_has_not_are_refused() -> None:
    own_neurons.register()
    recipe = rb.Recipe(
        name="x",
        timesteps=2,
        neuron=own_neurons.BurstNeuron(),
        calibration=(rb.passes.Thresholds(), rb.passes.ErrorCalibration()),
    )
    with pytest.raises(CalibrationError, match="has Burst neurons, which have no such parameters: pre, post"):
        rb.convert(networks.build("MLP"), recipe, calibration=grid_images("MLP"))


def test_a_neuron_that_nir_has_no_word_for_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    with pytest.raises(StoreError, match="SignedIF neurons, for which NIR has no node"):
        rb.exchange.export_nir(convert(signed()), tmp_path / "net.nir", reset="subtract")


@pytest.mark.slow
def test_two_phases_are_a_protocol(tmp_path: Path) -> None:
    own_neurons.register()
    images = grid_images("OptionAResNet")
    protocol = own_neurons.Rehearsal(steps=3)
    base = rb.RateCoding(timesteps=4)
    recipe = base.replace(name="rehearsed", protocol=protocol)
    assert rb.Recipe.from_yaml(recipe.to_yaml()) == recipe
    plain = rb.convert(networks.build("OptionAResNet"), base, calibration=images)
    snn = rb.convert(networks.build("OptionAResNet"), recipe, calibration=images)
    assert snn.execution_mode == "steps"
    logits = snn(images)
    assert not torch.equal(logits, plain(images))
    assert torch.equal(torch.cat([snn(part) for part in images.split(7)]), logits)
    assert torch.equal(rb.load(rb.save(snn, tmp_path / "net"))(images), logits)
    # every site waits for its input, and works for three steps before its four
    found = rb.latency(snn)
    assert found.internal == 0
    assert found.final == 7 * len(found.critical_path)
    assert rb.energy(snn, images).updates == rb.energy(plain, images).updates * 7 / 4
    snn.execution = "counts"
    with pytest.raises(RecipeError, match="depends on when their input arrives"):
        snn(images)
    snn.execution = "auto"
    with pytest.raises(CalibrationError, match="wait for their whole input"):
        rb.convert(
            plain,
            recipe.replace(calibration=(rb.passes.Thresholds(), rb.passes.TemporalBias(batch_size=8))),
            calibration=images,
        )

    # the first site by hand: neurons that end below zero after three steps are silent in the four that count
    seen: list[Tensor] = []
    snn.readouts(images[:2], (4,), monitor=lambda site, train: seen.append(train.values) if site.index == 0 else None)
    currents: list[Tensor] = []
    plain.ann.on_means(images[:2], lambda node, z, _: currents.append(z.clone()) or z.relu())
    neuron = plain.neuron(plain.sites[0].name)
    start = neuron.init(currents[0].shape, currents[0])
    _, (end,) = neuron.run(currents[0].expand(3, *currents[0].shape), start)
    values, _ = neuron.run(currents[0].expand(4, *currents[0].shape), start)
    assert torch.equal(torch.cat(seen, 1), torch.where(end < 0, 0.0, values))


@pytest.mark.slow
def test_a_network_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    class Forgetful(SignedIF):
        kind = "forgetful"

        def config(self) -> dict[str, Any]:
            return {**super().config(), "leak": 0.1}

    class ForgetfulNeuron(SignedNeuron):
        kind: Literal["forgetful"] = "forgetful"  # type: ignore[assignment]
        builds = Forgetful

        def build(self, site: Site, graph: Graph) -> Forgetful:
            return Forgetful(torch.tensor(1.0), torch.tensor(0.5))

    rb.register(ForgetfulNeuron)
    recipe = rb.Recipe(name="x", timesteps=2, neuron=ForgetfulNeuron())
    with pytest.raises(RecipeError, match=r"Forgetful: cannot be built from its buffers .*'leak'"):
        convert(recipe.replace(calibration=(rb.passes.Thresholds(),)))
    snn = convert(recipe)
    with pytest.raises(StoreError, match=r"forgetful.*'leak'"):
        rb.save(snn, tmp_path / "net")
    assert not list(tmp_path.iterdir())


class Abstract(CalibrationPass):
    kind: Literal["abstract"] = "abstract"


class Nameless(LowerThresholds):
    kind: str  # type: ignore[assignment]


class Taken(LowerThresholds):
    kind: Literal["thresholds"] = "thresholds"  # type: ignore[assignment]


class Inherits(IntegrateFire):
    kind = "inherits"

    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        return super().step(2 * current, state, t)


class OldRun(SignedIF):
    kind = "old_run"

    def run(self, currents: Tensor, state: State, t: int = 0) -> tuple[Tensor, State]:  # type: ignore[override]
        return super().run(currents, state, t)


class OldRate(ConstantCurrent):
    kind = "old_rate"

    def rate(self, current: Tensor, steps: int) -> Tensor:  # type: ignore[override]
        return super().rate(current, steps)


class Counts(SignedIF):
    kind = "counts"
    run = Neuron.run

    def step(self, current: Tensor, state: State, t: int) -> tuple[Tensor, State]:
        return super().step(2 * current, state, t)


class Halved(ParallelIF):
    kind = "halved"

    def rate(self, current: Tensor, steps: int, *, overwrite: bool = False) -> Tensor:
        return super().rate(current, steps, overwrite=overwrite) / 2


class Pasc(SignedIF):
    kind = "pasc"


def building(neuron: type[Neuron]) -> type[NeuronPart]:
    """A part of a recipe that builds these neurons."""

    class Part(SignedNeuron):
        kind: Literal["part"] = "part"  # type: ignore[assignment]
        builds = neuron

    return Part


class Homeless(NeuronPart):
    kind: Literal["homeless"] = "homeless"

    def build(self, site: Site, graph: Graph) -> Neuron:
        raise NotImplementedError


def OPI() -> rb.Recipe:
    return rb.RateCoding()


def NeedsMore(timesteps: int) -> rb.Recipe:
    return rb.RateCoding(timesteps=timesteps)


@pytest.mark.parametrize(
    ("part", "word"),
    [
        (Abstract, "Abstract: does not define apply"),
        (Nameless, "has no name"),
        (Taken, "'thresholds' is taken by rheobase.passes.thresholds.Thresholds"),
        (building(OldRun), "OldRun.run: has no argument overwrite"),
        (building(OldRate), "OldRate.rate: has no argument overwrite"),
        (building(Inherits), "Inherits: defines step and inherits run"),
        (building(Counts), "Counts: defines step and inherits count"),
        (building(Halved), "Halved: defines rate and inherits response"),
        (building(Pasc), "'pasc' is taken by rheobase.neurons.pasc.Pasc"),
        (Homeless, "Homeless.builds"),
        (OPI, "'OPI' is taken"),
        (NeedsMore, "NeedsMore timesteps: has no default"),
        (SignedIF, "registered by the NeuronPart"),
        (3, "is not a pass"),
    ],
)
def test_what_cannot_be_registered(part: Any, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        rb.register(part)
    assert "part" not in rb.methods.neuron_part.NEURON_PARTS


def test_again_in_a_notebook() -> None:
    for _ in range(2):
        rb.register(SignedNeuron)

        @rb.register
        def Mine(timesteps: int = 4) -> rb.Recipe:
            return rb.RateCoding(timesteps=timesteps)

    assert METHODS["Mine"](timesteps=2).timesteps == 2
    with pytest.raises(RecipeError, match="unknown field 'levels'"):
        METHODS["Mine"](levels=2)


# -- the command line -------------------------------------------------------------------------------------------------

MODULE = """
import torch
import rheobase as rb
from test_register import LowerThresholds, SignedNeuron

rb.register(SignedNeuron)
rb.register(LowerThresholds)

@rb.register
def Signed(timesteps: int = 4, factor: float = 1.0) -> rb.Recipe:
    passes = (rb.passes.Thresholds(), LowerThresholds(factor=factor))
    return rb.Recipe(name="Signed", timesteps=timesteps, neuron=SignedNeuron(), calibration=passes)

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

def data():
    return torch.rand(20, 4, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    (tmp_path / "my_parts.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield runner(capsys)
    sys.modules.pop("my_parts", None)


def test_own_parts_on_the_command_line(run: Run) -> None:
    where = ("my_parts:network", "--data", "my_parts:data")
    assert_refused(run("convert", *where, "--method", "Signed", "--out", "net"), "'Signed' is unknown")
    assert_refused(run("--import", "nowhere", "convert", *where, "--out", "net"), "'nowhere' cannot be imported")
    options = ("--method", "Signed", "--option", "factor=0.75", "--timesteps", "2", "--out", "net", "--json")
    made = run("--import", "my_parts", "convert", *where, *options)
    assert made.code == 0, made.err
    assert made.document["recipe"]["calibration"][1] == {"kind": "lower_thresholds", "factor": 0.75}
    assert run("--import", "my_parts", "evaluate", "net", "--data", "my_parts:data").code == 0
    counts = ("--test", "my_parts:other_data", "--execution", "counts", "--out", "other")
    refused = run("--import", "my_parts", "convert", *where, "--method", "Signed", *counts)
    assert_refused(refused, "Signed", "no closed form")
