"""Networks as people bring them: how each kind is traced, and the sentence where it cannot be."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import rheobase as rb
from rheobase.core.errors import DataError, ModelError, RecipeError, TraceError, TrainingError
from rheobase.graph import capture
from rheobase.graph.trace.outputs import outputs_of


class Net(nn.Module):
    """Two linear layers with a ReLU, and a function of (the network, its input, its logits) that returns the output."""

    def __init__(self, function: Callable[[Any, Tensor, Tensor], Any] = lambda net, x, z: z) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.first, self.relu, self.last = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)
            self.aux = nn.Linear(6, 3)
        self.function, self.cache = function, None
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(4))
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x, self.last(self.relu(self.first(x))))


TRAINING = rb.Training(epochs=1, learning_rate=0.01, batch_size=4)


def image(rows: int = 3) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(1))


# -- the graph is compared with the network on more than the example ---------------------------------------------------


class Clipped(nn.Module):
    """Traced without its clipping, which no value of a small example reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.limit = 5.0

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.ops.rheobase_test.clipped(x, self.limit))


@pytest.fixture(scope="module")
def misread_operation() -> Iterator[None]:
    """An operation of torch, and a wrong implementation of it for graphs: they differ for large values."""
    library = torch.library.Library("rheobase_test", "DEF")
    library.define("clipped(Tensor x, float limit) -> Tensor")
    library.impl("clipped", lambda x, limit: x.clamp(-limit, limit), "CompositeExplicitAutograd")
    yield
    library._destroy()


class Unclipped(rb.graph.operations.Operation):
    name = "unclipped"
    traced_from = ("rheobase_test::clipped",)

    def apply(self, x: Tensor, limit: float) -> Tensor:
        return x.clone()


@pytest.mark.slow
@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize(
    ("example", "images", "place"),
    [
        (torch.zeros(2, 4), None, "random inputs"),
        (torch.tensor([[-9.0, 9.0, 0.1, 0.2]]), None, "the example"),
        (image(), 10 * image(), "calibration images"),
    ],
)
def test_a_wrong_graph_is_refused_whatever_the_example(
    misread_operation: None, example: Tensor, images: Tensor | None, place: str
) -> None:
    rb.register(Unclipped)
    network = Clipped()
    network.limit = 1.0 if images is None else 4.0
    with pytest.raises(
        TraceError, match=rf"differs from its traced graph on .*{place}: by [\d.]+ of .* first at net.first"
    ):
        capture(network, example, images=images)


@pytest.mark.slow
@pytest.mark.usefixtures("own_parts")
def test_a_difference_is_not_excused_by_a_network_that_fails_in_float64(misread_operation: None) -> None:
    rb.register(Unclipped)

    class Fixed(Clipped):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return super().forward(x)

    with pytest.raises(TraceError, match="calibration images"):
        capture(Fixed(), image() / 100, images=9 * image())


@pytest.mark.slow
@pytest.mark.usefixtures("own_parts")
def test_each_of_several_outputs_is_compared(misread_operation: None) -> None:
    rb.register(Unclipped)

    class Two(Clipped):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x), 1e6 * F.relu(x)  # type: ignore[return-value]

    network = Two()
    network.limit = 0.1
    with pytest.raises(TraceError, match="differs from its traced graph"):
        capture(network, image(), output="all")


def test_convert_compares_on_the_calibration_images(misread_operation: None) -> None:
    rb.register(Unclipped)
    with pytest.raises(TraceError, match="calibration images"):
        rb.convert(Clipped(), rb.RateCoding(timesteps=2), example=image(), calibration=10 * image(20))


@pytest.mark.slow
def test_rounding_of_a_quantised_network_is_no_difference() -> None:
    network = nn.Sequential(nn.Linear(4, 64), rb.QCFS(16), nn.Linear(64, 64), rb.QCFS(16), nn.Linear(64, 1)).eval()
    capture(network, torch.zeros(2, 4)).raise_if_refused()


# -- parts that the output does not depend on --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda net, x, z: (torch.tanh(net.aux(F.relu(net.first(x)))), z)[1],
        lambda net, x, z: z if net.aux(x.new_zeros(1, 6)).tanh() is not None else x,
    ],
)
def test_what_the_output_does_not_depend_on_is_left_out(function: Callable[..., Any]) -> None:
    network = Net(function)
    network.unused = nn.ReLU()
    found = capture(network, image())
    found.raise_if_refused()
    assert [node.name for node in found.graph.sites] == ["relu"]
    assert "unused (ReLU): left out" in " ".join(map(str, found.rewrites))
    torch.testing.assert_close(found.graph(image()), network(image()))


# -- a final softmax or sigmoid ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "inverse"),
    [
        (lambda net, x, z: z.softmax(1), torch.log),
        (lambda net, x, z: F.log_softmax(z, dim=-1), lambda y: y),
        (lambda net, x, z: torch.sigmoid(z)[:, 1:].unsqueeze(2), torch.logit),
        (
            lambda net, x, z: torch.cat([z.sigmoid(), net.aux(F.relu(net.first(x))).sigmoid()], 1).unsqueeze(2),
            torch.logit,
        ),
        (lambda net, x, z: {"logits": F.logsigmoid(z), "p": z.tanh()}, None),
    ],
)
def test_a_final_softmax_or_sigmoid_is_removed(function: Any, inverse: Any) -> None:
    network = Net(function)
    found = capture(network, torch.zeros(1, 4))
    found.raise_if_refused()
    assert any("the outputs are the logits" in str(note) for note in found.rewrites)
    if inverse is not None:
        logits, expected = found.graph(image()), inverse(network(image()))
        if logits.dim() == 2:  # a softmax leaves the mean of the logits open
            logits, expected = logits - logits.mean(1, True), expected - expected.mean(1, True)
        torch.testing.assert_close(logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda net, x, z: z.softmax(1)[:, 1:],  # another order over images than that of the logits
        lambda net, x, z: z.softmax(0),  # and here of the classes
        lambda net, x, z: torch.stack([z, net.aux(net.relu(net.first(x)))], 2).softmax(2).flatten(1),
        lambda net, x, z: torch.cat([z.softmax(1), net.aux(net.relu(net.first(x))).softmax(1)], 1),
        lambda net, x, z: torch.cat([z[:, :2].sigmoid(), z[:, 2:]], 1),
        lambda net, x, z: z * z.sigmoid(),
        lambda net, x, z: net.aux(net.first(x).sigmoid()),
    ],
)
def test_other_softmax_and_sigmoid_calls_are_refused(function: Any) -> None:
    assert capture(Net(function), image()).refusals


@pytest.mark.slow
def test_probabilities_do_not_teach_logits() -> None:
    network = Net(lambda net, x, z: z.softmax(1))
    quantised = rb.quantise(network, rb.Pascal(levels=4), calibration=image(12))
    training = rb.Training(epochs=1, learning_rate=0.01, batch_size=4)
    with pytest.raises(TrainingError, match=r"teacher: returns values from 0 to 1.*rb.graph.capture"):
        rb.train(quantised, image(12), training, teacher=network)
    rb.train(quantised, image(12), training, teacher=capture(network, image(2)).graph)


# -- state, normalised weights, masks, TorchScript ---------------------------------------------------------------------


def writes_buffers(net: Any, x: Tensor, z: Tensor) -> Tensor:
    net.calls += 1
    net.seen.mul_(0.9).add_(x.mean(0))
    return z


def stores_activations(net: Any, x: Tensor, z: Tensor) -> Tensor:
    net.cache = [x, z]
    return net.cache[1]


def stores_objects(net: Any, x: Tensor, z: Tensor) -> Tensor:
    net.cache = SimpleNamespace(logits=z, lock=threading.Lock())
    return z


def asserts(net: Any, x: Tensor, z: Tensor) -> Tensor:
    assert (x > -100).all(), "values"
    torch._assert((z < 1000).all(), "values")
    return z


def changed(change: Callable[[Net], Any]) -> nn.Module:
    network = Net()
    result = change(network)
    network(image())  # with gradients: masks and norms keep the computed weight
    return (result if isinstance(result, nn.Module) and not isinstance(result, nn.Linear) else network).eval()


KINDS: dict[str, Callable[[], nn.Module]] = {
    "a forward that writes buffers": lambda: Net(writes_buffers),
    "stored activations": lambda: Net(stores_activations),
    "stored objects": lambda: changed(lambda net: setattr(net, "function", stores_objects)),
    "asserts on values": lambda: Net(asserts),
    "old weight norm": lambda: changed(lambda net: weight_norm(net.first)),
    "old spectral norm": lambda: changed(lambda net: spectral_norm(net.first)),
    "weight norm": lambda: changed(lambda net: parametrizations.weight_norm(net.first)),
    "spectral norm": lambda: changed(lambda net: parametrizations.spectral_norm(net.last)),
    "pruning": lambda: changed(lambda net: prune.l1_unstructured(net.first, "weight", 0.5)),
    "iterated pruning": lambda: changed(
        lambda net: prune.random_unstructured(prune.random_unstructured(net.first, "weight", 0.2), "weight", 0.3)
    ),
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()),
    "jit-traced": lambda: torch.jit.trace(Net(), image()),
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "data parallel": lambda: nn.DataParallel(Net()),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_network_is_traced_and_not_changed(kind: str) -> None:
    network = KINDS[kind]()
    if kind == "stored activations":
        network(image())
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    found = capture(network, image())
    found.raise_if_refused()
    after = network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    expected = network(image(5)).detach()
    torch.testing.assert_close(found.graph(image(5)), expected)
    if kind not in ("jit-traced", "scripted"):
        assert {"first.weight", "last.weight"} <= set(found.graph.tensor_names)
    if "norm" in kind or "pruning" in kind:
        assert any("'weight' is part of the weight now" in str(note) for note in found.rewrites)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 3))


def meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU())


@pytest.mark.slow
def test_refused_modules_that_the_output_does_not_depend_on_are_left_out() -> None:
    class WithMemory(Net):
        def __init__(self, returned: int) -> None:
            super().__init__()
            self.memory, self.returned = nn.LSTM(4, 3), returned

        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x), self.memory(x.unsqueeze(1))[0].flatten(1))[self.returned]  # type: ignore[no-any-return]

    capture(WithMemory(0), image()).raise_if_refused()
    with pytest.raises(TraceError, match=r"memory \(LSTM\): recurrent layers"):
        capture(WithMemory(1), image()).raise_if_refused()


class TwoInputs(Net):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.relu(self.first(x + y))


class Uncopied(Net):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle this object")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lazy, ModelError, "weight '0.weight': has no shape yet"),
        (meta, ModelError, "weight '0.weight': is on the meta device"),
        (TwoInputs, TraceError, r"takes 2 inputs \(x, y\).*wrap it"),
        (Uncopied, ModelError, "cannot be copied"),
        (
            lambda: nn.Sequential(torch.jit.script(nn.ReLU()), torch.jit.script(nn.Linear(4, 2))),
            TraceError,
            "TorchScript",
        ),
    ],
)
def test_other_kinds_get_a_sentence(make: Callable[[], nn.Module], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        capture(make(), image())
    assert "Remedy" in str(caught.value)


# -- several outputs ---------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    logits: Tensor
    hidden: Any = None


Pair = namedtuple("Pair", "out aux")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "output", "expected"),
    [
        (lambda net, x, z: {"aux": net.aux(F.relu(net.first(x))), "out": z}, None, "last"),
        (lambda net, x, z: OrderedDict(out=z, aux=net.aux(F.relu(net.first(x)))), "aux", "aux"),
        (lambda net, x, z: (z, net.aux(F.relu(net.first(x)))), 1, "aux"),
        (lambda net, x, z: [z.tanh(), [None, z]], "1.1", "last"),
        (lambda net, x, z: Answer(z, (x.tanh(), z.tanh())), None, "last"),
        (lambda net, x, z: Pair(z, z.tanh()), None, "last"),
        (lambda net, x, z: (z, 3.0, "text"), None, "last"),
        (lambda net, x, z: (x.mean(), z), None, "last"),
    ],
)
def test_one_of_several_outputs_is_converted(function: Any, output: str | int | None, expected: str) -> None:
    network = Net(function)
    found = capture(network, image(), output=output)
    found.raise_if_refused()
    expected_values = getattr(network, expected)(F.relu(network.first(image())))
    torch.testing.assert_close(found.graph(image()), expected_values)


@pytest.mark.parametrize(
    ("function", "output", "words"),
    [
        (lambda net, x, z: (z, x), None, r"tuple of 2 tensors: 0 \[3, 3\], 1 \[3, 4\].*such as output=0"),
        (lambda net, x, z: {"a": z}, "b", r"has no 'b'; it has 'a' \[3, 3\]"),
        (lambda net, x, z: z, "out", "is one tensor"),
        (lambda net, x, z: (z, torch.zeros(3, 2)), 1, "does not depend on the input.*choose another"),
        (lambda net, x, z: "logits", None, "is a str without tensors"),
        (lambda net, x, z: (z, x.mean(0)), 1, r"output '1'.*shape \[4\] for a batch of 3"),
        (lambda net, x, z: [{"boxes": x[:0]}, {"boxes": x[:1]}], None, "none of which has a row.*before"),
    ],
)
def test_a_choice_that_is_missing_or_wrong_lists_the_outputs(function: Any, output: Any, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        capture(Net(function), image(), output=output)


def test_the_users_network_keeps_its_forward() -> None:
    network = Net(lambda net, x, z: {"out": z, "aux": x})
    before = copy.copy(vars(network))
    capture(network, image())
    assert vars(network) == before
    assert set(network(image())) == {"out", "aux"}


class Pyramid(nn.Module):
    """Feature maps of two sizes and a classifier, as detection and segmentation networks return them."""

    def __init__(self, arrange: Callable[..., Any]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.stem, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
            self.box, self.head = nn.Conv2d(4, 2, 1), nn.Linear(4, 5)
        self.arrange = arrange
        self.eval()

    def forward(self, x: Tensor) -> Any:
        fine = F.relu(self.stem(x))
        coarse = F.relu(self.down(fine))
        return self.arrange(fine, self.box(coarse), self.head(coarse.mean((2, 3))))


ARRANGEMENTS: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "dict": (lambda fine, box, z: {"out": z, "maps": [fine, box], "size": 3}, ["out", "maps.0", "maps.1"]),
    "tuple": (lambda fine, box, z: (box, None, z), ["0", "2"]),
    "dataclass": (lambda fine, box, z: Answer(z, (box.sigmoid(),)), ["logits", "hidden.0"]),
    "constant": (lambda fine, box, z: [z, torch.ones(len(z), 2), fine, z.sum()], ["0", "2"]),
}


def photos(count: int = 12) -> Tensor:
    return torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_all_outputs_are_converted_in_their_structure(name: str, tmp_path: Path) -> None:
    arrange, names = ARRANGEMENTS[name]
    network = Pyramid(arrange)
    found = capture(network, photos(2), output="all")
    assert found.graph.structure is not None
    assert list(found.graph.structure.shapes) == names
    left_out = [note.where for note in found.rewrites if "left out" in note.text]
    assert left_out == (["output '1'", "output '3'"] if name == "constant" else [])
    returned = outputs_of(network(photos()))
    analog = outputs_of(found.graph.unpack(found.graph(photos())))
    for key in names:
        expected = torch.logit(returned[key]) if name == "dataclass" and key == "hidden.0" else returned[key]
        torch.testing.assert_close(analog[key], expected, rtol=1e-4, atol=1e-4)

    snn = rb.convert(network, rb.RateCoding(timesteps=4), calibration=photos(), output="all")
    spiking = snn(photos())
    assert set(outputs_of(spiking)) == set(names)
    assert type(spiking) is (dict if name == "dataclass" else type(network(photos())))
    again = rb.load(rb.save(snn, tmp_path / "snn"))
    steps = dict(snn.stream(photos()))
    for key, value in outputs_of(spiking).items():
        assert torch.equal(outputs_of(again(photos()))[key], value)
        torch.testing.assert_close(outputs_of(steps[4])[key], value)
        torch.testing.assert_close(snn.select(key)(photos()), value)


@pytest.mark.slow
def test_measurements_take_networks_with_several_outputs() -> None:
    network, labels = Pyramid(ARRANGEMENTS["dict"][0]), torch.arange(12) % 5
    calibration = (photos(), labels)
    snn = rb.convert(network, rb.RateCoding(timesteps=64), calibration=calibration, output="all")
    for measured in (snn, snn.select("out"), rb.convert(network, rb.RateCoding(timesteps=64), calibration=calibration)):
        assert rb.evaluate(measured, (photos(), labels), [64]).rows[0].agreement > 0.8
        assert rb.energy(measured, photos()).rows
        assert rb.diagnose(measured, photos())
    quantised = rb.quantise(network, rb.Pascal(levels=4), calibration=photos(), output="all")
    exact = rb.convert(quantised, rb.Pascal(levels=4), calibration=photos())
    for key, value in outputs_of(exact(photos())).items():
        torch.testing.assert_close(value, outputs_of(quantised.eval()(photos()))[key])
        torch.testing.assert_close(value, outputs_of(rb.for_inference(exact)(photos()))[key])
    unnamed = rb.convert(
        Pyramid(ARRANGEMENTS["tuple"][0]), rb.RateCoding(timesteps=2), calibration=photos(), output="all"
    )
    with pytest.raises(TraceError, match=r"joins 2 tensors: 0 \[2, 3, 3\], 2 \[5\].*network.select\(0\)"):
        rb.evaluate(unnamed, (photos(), labels))
    with pytest.raises(ModelError, match=r"several outputs .* needs one"):
        rb.train(snn, calibration, rb.Training(epochs=1, learning_rate=0.1))


@pytest.mark.slow
def test_an_output_has_no_effect_on_a_traced_or_converted_network() -> None:
    graph = capture(Net(), image()).graph
    snn = rb.convert(Net(), rb.RateCoding(timesteps=2), calibration=image(8))
    for converted in (graph, snn, rb.quantise(Net(), rb.Pascal(levels=2), calibration=image(8))):
        with pytest.raises(RecipeError, match=r"output: .*no effect"):
            rb.convert(converted, rb.RateCoding(timesteps=2), calibration=image(8), output="out")


@pytest.mark.slow
def test_several_outputs_in_a_comparison_and_selected() -> None:
    """Measured is the output named logits, whose task it is; the other head costs nothing once it is not selected."""
    network = Net(lambda net, x, z: {"logits": z, "aux": net.aux(F.relu(net.last(net.first(x)) @ torch.ones(3, 6)))})
    images = image(40)
    labels = network(images)["logits"].argmax(1)
    recipes = [rb.RateCoding(timesteps=2), rb.Pascal(levels=2)]
    found = rb.compare(network, recipes, -image(30), (images, labels), (2,), output="all", training=TRAINING)
    done, refused = found.cells
    assert done.status == "done", done.reason
    assert done.test is not None
    assert done.test.ann_accuracy == 1
    assert "several outputs" in str(refused.reason)
    both = rb.convert(network, rb.RateCoding(timesteps=2), calibration=images, output="all")
    one = rb.convert(network, rb.RateCoding(timesteps=2), calibration=images, output="logits")
    assert len(both.sites) == 2
    assert rb.energy(both.select("logits"), images).picojoules == rb.energy(one, images).picojoules
    assert torch.equal(one.select(0)(images), one(images))
    for wrong in (1, "aux", True):
        with pytest.raises(TraceError, match="is one tensor"):
            one.select(wrong)  # type: ignore[arg-type]


# -- another image size ------------------------------------------------------------------------------------------------


class AnySize(nn.Module):
    """Convolutions, a mean, a resize and a slice, whose sizes follow from the image's."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(8)
            self.first, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.first(x)))
        means = F.interpolate(y.mean((2, 3), keepdim=True), x.shape[2:])
        y = F.interpolate(y[:, :, : y.shape[2] // 2], x.shape[2:], mode="bilinear") + means
        return self.last(F.relu(y))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [rb.RateCoding(timesteps=32), rb.FTBC(timesteps=4), rb.Graded(timesteps=4)])
def test_a_network_calibrated_on_crops_runs_at_the_size_of_the_example(recipe: rb.Recipe) -> None:
    network, large = AnySize(), torch.rand(3, 3, 14, 10, generator=torch.Generator().manual_seed(4))
    snn = rb.convert(network, recipe, calibration=photos(20), example=large)
    torch.testing.assert_close(snn.ann(large), network(large))
    direct = rb.convert(network, recipe, calibration=photos(20))
    for mine, other in zip(snn.neurons, direct.neurons, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.buffers(), other.buffers(), strict=True))
    error = (snn(large) - network(large)).norm() / network(large).norm()
    assert error < 0.2
    assert "runs on [3, 14, 10]" in snn.provenance.notes[-1]
    with pytest.raises(DataError, match=r"\[3, 6, 6\].*converted for \[3, 14, 10\].*example of this size"):
        snn(photos())
    with pytest.raises(DataError, match="trace the network again"):
        snn.ann(photos())


class Sums(AnySize):
    """With a sum over the image, whose factor depends on the size."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.norm(self.first(x)).relu().sum((2, 3), keepdim=True)[:, :2]


@pytest.mark.slow
def test_values_that_depend_on_the_size_are_refused_at_another_one() -> None:
    with pytest.raises(RecipeError, match=r"needs other values of the tensor .*as for a sum"):
        rb.convert(Sums(), rb.RateCoding(timesteps=2), calibration=photos(), example=torch.rand(1, 3, 9, 9))


class Positions(AnySize):
    """With a parameter for each position, as position embeddings are when they are resized."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.linspace(0, 1, x.shape[3]).expand(x.shape).clone())


@pytest.mark.slow
def test_values_for_each_position_are_refused_at_another_size() -> None:
    with pytest.raises(RecipeError, match=r"needs the tensor .* with shape .*Remedy: calibrate with images of shape"):
        rb.convert(Positions(), rb.RateCoding(timesteps=2), calibration=photos(), example=torch.rand(1, 3, 9, 9))
    with pytest.raises(DataError, match="converted for"):
        rb.quantise(AnySize(), rb.Pascal(levels=2), calibration=photos(), example=torch.rand(1, 3, 9, 9))


class Frees(torch.autograd.Function):
    """A residual block that frees what it does not need, as reversible networks do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: nn.Module) -> Tensor:
        with torch.no_grad():
            y = x + function(x)
            (y * 2).contiguous().set_()
        ctx.save_for_backward(x, y)
        return y


class Reversible(nn.Module):
    """A network that frees its activations, by ``set_`` or by the size of their memory."""

    def __init__(self, free: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.free = free

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        y = Frees.apply(x, self.block)
        self.free(x)
        return self.last(y.relu()).mean((2, 3))


@pytest.mark.parametrize(
    "free", [lambda x: x.data.set_(), lambda x: x.untyped_storage().resize_(0), lambda x: x.storage().resize_(0)]
)
def test_freed_memory_changes_nothing(free: Callable[[Tensor], object]) -> None:
    net, images = Reversible(free).eval(), torch.rand(4, 3, 8, 8)
    graph = capture(net, images).graph
    assert [len(graph.sites), graph(images).shape] == [2, (4, 2)]
    torch.testing.assert_close(graph(images), net(images))


def test_replaced_memory_is_refused() -> None:
    net = Reversible(lambda x: x.data.set_(torch.zeros_like(x)))
    with pytest.raises(TraceError, match=r"replaces the memory of a tensor.* Remedy: write x = y in place of x.set_"):
        capture(net.eval(), torch.rand(4, 3, 8, 8))


class ByNumPy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.as_tensor(x.detach().cpu().numpy()).sum()


def test_values_by_numpy_are_refused() -> None:
    with pytest.raises(TraceError, match=r"test_trace.py:\d+: .*leaves PyTorch for NumPy"):
        capture(ByNumPy(), torch.rand(4, 3, 8, 8))


class Bounded(nn.Module):
    """With a clip whose upper bound is a buffer, infinite where nothing is clipped."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("bound", torch.tensor(bound))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.minimum(self.first(x).relu(), self.bound))


def test_a_buffer_may_be_infinite() -> None:
    images = torch.rand(8, 4)
    net = Bounded(float("inf"))
    torch.testing.assert_close(capture(net, images).graph(images), net(images))
    with pytest.raises(ModelError, match="weight 'bound': 1 of 1 values are NaN"):
        capture(Bounded(float("nan")), images)
