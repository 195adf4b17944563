"""Saving and loading: the same network to the last bit, or a clear refusal."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import networks
import rheobase as rb
from conftest import grid_images, grid_snn
from rheobase.core.errors import StoreError
from rheobase.exchange import store
from rheobase.graph import Graph
from rheobase.neurons import Neuron

SAVED = ["VGG", "UNet", "MLP", "Conv3dNet", "SplitPermuteNet", "MaxPoolVGG"]


@cache
def snn_of(name: str) -> rb.SpikingNetwork:
    if name != "MaxPoolVGG":
        return grid_snn(name)
    images = grid_images(name)
    return rb.convert(networks.build(name), rb.RateCoding(timesteps=4), calibration=images, max_pool="gate")


@pytest.fixture
def snn() -> rb.SpikingNetwork:
    return snn_of("MLP")


@pytest.fixture
def folder(tmp_path: Path, snn: rb.SpikingNetwork) -> Path:
    return rb.save(snn, tmp_path / "net")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = rb.save(snn_of("MLP"), tmp_path_factory.mktemp("store") / "net")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(StoreError) as caught:
        yield
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert caught.value.where
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def same_bits(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    a, b = a.detach().contiguous(), b.detach().contiguous()
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def same_graph(a: Graph, b: Graph) -> bool:
    tensors = a.tensor_names == b.tensor_names and all(same_bits(t, b.tensor(n)) for n, t in a.tensors.items())
    return tensors and a.nodes == b.nodes and a.output == b.output


def same_neuron(a: Neuron, b: Neuron) -> bool:
    kinds = type(a) is type(b) and a.config() == b.config() and a._buffers.keys() == b._buffers.keys()
    return kinds and all(same_bits(buffer, b._buffers[name]) for name, buffer in a._buffers.items())


def same_network(a: rb.SpikingNetwork, b: rb.SpikingNetwork) -> bool:
    return (
        same_graph(a.graph, b.graph)
        and same_graph(a.ann, b.ann)
        and a.sites == b.sites
        and all(same_neuron(m, n) for m, n in zip(a.neurons, b.neurons, strict=True))
        and (a.timesteps, a.recipe, a.provenance) == (b.timesteps, b.recipe, b.provenance)
    )


# -- the same network ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SAVED)
def test_a_loaded_network_is_the_same_to_the_last_bit(name: str, tmp_path: Path) -> None:
    before, images = snn_of(name), grid_images(name, 6)
    assert rb.save(before, tmp_path / "net") == tmp_path / "net"
    after = rb.load(tmp_path / "net")
    assert same_network(before, after)
    assert not after.training
    assert same_bits(before(images), after(images))
    assert same_bits(before(images[:1], 2), after(images[:1], 2))
    assert same_bits(before.ann(images), after.ann(images))
    for (t, left), (u, right) in zip(before.stream(images), after.stream(images), strict=True):
        assert t == u
        assert same_bits(left, right)
    if before(images).dim() == 2:
        labels = torch.arange(6) % networks.CLASSES
        assert rb.evaluate(before, (images, labels)) == rb.evaluate(after, (images, labels))


@pytest.mark.slow
def test_saving_what_was_loaded_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    rb.save(rb.load(folder), tmp_path / "again")
    for name in (store.STRUCTURE_FILE, store.TENSORS_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_the_class_of_the_original_network_is_not_needed(tmp_path: Path) -> None:
    snn, images = snn_of("VGG"), grid_images("VGG", 3)
    rb.save(snn, tmp_path / "net")
    save_file({"images": images}, tmp_path / "images.safetensors")
    script = (
        "import sys; sys.modules['networks'] = None\n"
        "import torch, rheobase as rb\n"
        "from safetensors.torch import load_file, save_file\n"
        "torch.set_num_threads(1)\n"
        "images = load_file('images.safetensors')['images']\n"
        "save_file({'logits': rb.load('net')(images)}, 'logits.safetensors')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert same_bits(load_file(tmp_path / "logits.safetensors")["logits"], snn(images))


@pytest.mark.slow
def test_what_both_graphs_share_is_stored_once(tmp_path: Path) -> None:
    snn = copy.deepcopy(snn_of("MLP"))
    weights = sum(t.numel() * t.element_size() for t in snn.ann.tensors.values())
    name = snn.graph.tensor_names[0]
    changed = snn.graph.tensor(name) * 2
    snn.graph = snn.graph.replace(tensors={name: changed})
    rb.save(snn, tmp_path / "net")
    extra = changed.numel() * changed.element_size()
    assert (tmp_path / "net" / store.TENSORS_FILE).stat().st_size < weights + extra + 8000
    after = rb.load(tmp_path / "net")
    assert same_network(snn, after)
    for tensor in after.ann.tensor_names[1:]:
        assert after.graph.tensor(tensor).data_ptr() == after.ann.tensor(tensor).data_ptr()


def test_equal_buffers_of_two_neurons_stay_apart(folder: Path) -> None:
    first, second, *_ = rb.load(folder).neurons
    assert torch.equal(first.initial_potential, second.initial_potential)
    first.initial_potential.fill_(0.25)
    assert float(second.initial_potential) == 0.5


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=20)
def test_any_buffers_survive(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    snn = copy.deepcopy(snn_of("MLP"))
    positive = st.floats(0, exclude_min=True, width=32) | st.just(float("inf"))
    for site, neuron in zip(snn.sites, snn.neurons, strict=True):
        count = st.lists(positive, min_size=site.channels, max_size=site.channels)
        neuron.threshold = torch.tensor(data.draw(positive | count))
        neuron.initial_potential = torch.tensor(data.draw(st.floats(width=32)))
        if data.draw(st.booleans()):
            neuron.bias = torch.tensor(data.draw(st.sampled_from([0.0, -0.0]))).expand(4, site.channels)
    folder = tmp_path_factory.mktemp("buffers") / "net"
    assert same_network(snn, rb.load(rb.save(snn, folder)))


@pytest.mark.slow
def test_memory_formats_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    snn = copy.deepcopy(snn_of("UNet"))
    name = next(n for n, t in snn.graph.tensors.items() if t.dim() == 4 and t.shape[2:] == (1, 1))
    for memory_format in (torch.channels_last, torch.contiguous_format):
        weight = snn.graph.tensor(name).clone(memory_format=memory_format)
        snn.graph = snn.graph.replace(tensors={name: weight})
        after = rb.load(rb.save(snn, tmp_path / "net", overwrite=True))
        assert after.graph.tensor(name).stride() == snn.graph.tensor(name).stride()


# -- damaged files -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, pristine: dict[str, bytes]) -> Callable[[str, bytes], Path]:
    folder = tmp_path_factory.mktemp("damaged")

    def write(name: str, data: bytes) -> Path:
        for other, content in pristine.items():
            (folder / other).write_bytes(data if other == name else content)
        return folder

    return write


@given(data=st.data())
@pytest.mark.parametrize("name", [store.STRUCTURE_FILE, store.TENSORS_FILE])
def test_a_changed_byte_is_noticed(
    name: str, data: st.DataObject, pristine: dict[str, bytes], damaged: Callable[[str, bytes], Path]
) -> None:
    content = bytearray(pristine[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    folder = damaged(name, bytes(content))
    if name == store.STRUCTURE_FILE and still_says(bytes(content), pristine[name]):
        rb.load(folder)  # the same JSON in other bytes, such as 1E-05 for 1e-05
    else:
        with refused(str(folder / name)):
            rb.load(folder)


def still_says(data: bytes, text: bytes) -> bool:
    try:
        return json.dumps(json.loads(data)) == json.dumps(json.loads(text))
    except ValueError:
        return False


@given(data=st.data())
@settings(max_examples=20)
@pytest.mark.parametrize("name", [store.STRUCTURE_FILE, store.TENSORS_FILE])
def test_a_truncated_file_is_noticed(
    name: str, data: st.DataObject, pristine: dict[str, bytes], damaged: Callable[[str, bytes], Path]
) -> None:
    folder = damaged(name, pristine[name][: data.draw(st.integers(0, len(pristine[name]) - 1))])
    with pytest.raises(StoreError, match="truncated") as caught:
        rb.load(folder)
    assert caught.value.where == str(folder / name)


def test_missing_folders_and_files_are_named(folder: Path) -> None:
    with refused("nowhere", "folder"):
        rb.load(folder / "nowhere")
    (folder / store.TENSORS_FILE).unlink()
    with refused(store.TENSORS_FILE, "missing"):
        rb.load(folder)
    (folder / store.STRUCTURE_FILE).unlink()
    with refused(store.STRUCTURE_FILE, "missing"):
        rb.load(folder)
    (folder / store.STRUCTURE_FILE).mkdir()
    with refused(store.STRUCTURE_FILE, "cannot be read"):
        rb.load(folder)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"format": "nir"}'])
def test_another_programs_folder_is_told(text: str, folder: Path) -> None:
    (folder / store.STRUCTURE_FILE).write_text(text)
    with refused("not the file of a rheobase network"):
        rb.load(folder)


@pytest.mark.parametrize("text", ["not json", "", "[" * 100_000, "\udcff"])
def test_what_is_not_json_is_told(text: str, folder: Path) -> None:
    (folder / store.STRUCTURE_FILE).write_bytes(text.encode(errors="surrogateescape"))
    with refused(store.STRUCTURE_FILE, "not JSON"):
        rb.load(folder)


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the structure and mend its hash."""
    path = folder / store.STRUCTURE_FILE
    content = json.loads(path.read_text())
    change(content)
    content["sha256"] = store.digest(content)
    path.write_text(json.dumps(content))


def node(content: dict[str, Any], operation: str) -> dict[str, Any]:
    return next(n for n in content["graph"]["nodes"] if n["operation"] == operation)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "operation": (lambda c: node(c, "linear").update(operation="eval"), "unknown operation 'eval'"),
    "refused": (lambda c: node(c, "linear").update(operation="refused"), "unknown operation 'refused'"),
    "ann": (lambda c: c["ann"]["nodes"][1].update(operation="eval"), "unknown operation"),
    "kind": (lambda c: c["neurons"][0].update(kind="Popen"), "unknown kind 'Popen'"),
    "config": (lambda c: c["neurons"][0]["config"].update(leak=1), "leak"),
    "no buffer": (lambda c: c["neurons"][0]["buffers"].pop("threshold"), "threshold"),
    "lost buffer": (lambda c: c["neurons"][0]["buffers"].update(threshold="gone"), "gone"),
    "neurons": (lambda c: c["neurons"].pop(), "2 layers of neurons for 3 sites"),
    "order": (lambda c: c["graph"]["nodes"][1:].reverse() or c["graph"]["nodes"].reverse(), "not the input"),
    "reads": (lambda c: node(c, "linear").update(inputs=["later"]), "reads 'later'"),
    "itself": (lambda c: node(c, "site").update(inputs=[node(c, "site")["name"]]), "not computed before"),
    "twice": (lambda c: c["graph"]["nodes"].append(c["graph"]["nodes"][-1]), "twice"),
    "second input": (lambda c: c["graph"]["nodes"][1].update(operation="input"), "second input"),
    "no input": (lambda c: c["graph"]["nodes"].pop(0), "not the input"),
    "empty": (lambda c: c["graph"]["nodes"].clear(), "graph.nodes"),
    "output": (lambda c: c["graph"].update(output="nothing"), "'nothing', which is not a node"),
    "tensor": (lambda c: c["graph"]["tensors"].clear(), "missing tensor"),
    "stored": (
        lambda c: c["graph"]["tensors"].update(dict.fromkeys(c["graph"]["tensors"], "x")),
        "missing tensor",
    ),
    "attribute": (lambda c: node(c, "linear")["attributes"].update(out=1), "'out'"),
    "missing": (lambda c: node(c, "site")["attributes"].clear(), "unknown activation"),
    "nested": (lambda c: node(c, "site")["attributes"].update(upper={"a": 1}), "upper"),
    "shape": (lambda c: node(c, "linear").update(shape=[-1]), "shape"),
    "field": (lambda c: c.update(code="import os"), "code"),
    "lost field": (lambda c: c.pop("recipe"), "recipe"),
    "timesteps": (lambda c: c.update(timesteps=0), "timesteps"),
    "newer": (lambda c: c.update(version=3), "newer rheobase"),
    "older": (lambda c: c.update(version="0"), "unknown format version"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_structures_are_refused(name: str, folder: Path) -> None:
    change, word = FORGERIES[name]
    forge(folder, change)
    with refused(str(folder / store.STRUCTURE_FILE), word):
        rb.load(folder)


def test_an_analog_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rb.core.errors.ModelError, match=r"rb\.convert"):
        rb.save(torch.nn.ReLU(), tmp_path / "net")  # type: ignore[arg-type]


def test_tensors_that_are_none_are_refused(folder: Path) -> None:
    (folder / store.TENSORS_FILE).write_bytes(b"garbage")
    forge(folder, lambda c: c.update(tensors_sha256=hashlib.sha256(b"garbage").hexdigest()))
    with refused(str(folder), "no tensors of a network"):
        rb.load(folder)


def test_what_load_would_refuse_is_not_saved(snn: rb.SpikingNetwork, tmp_path: Path) -> None:
    odd = copy.deepcopy(snn)
    odd.recipe["data"] = object()
    with refused("JSON", "recipe"):
        rb.save(odd, tmp_path / "net")
    odd = copy.deepcopy(snn)
    odd.neurons[0].kind = "mine"
    with refused("'mine'"):
        rb.save(odd, tmp_path / "net")
    assert not list(tmp_path.iterdir())


# -- writing -------------------------------------------------------------------------------------------------


def fail(error: BaseException, at: int = 1) -> Callable[..., Any]:
    """A function that raises on its ``at``-th call, and does what it stands for before and after."""
    calls: Iterator[int] = iter(range(1, 100))

    def replace(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if next(calls) == at:
                raise error
            return original(*args, **options)

        return call

    return replace


FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = PermissionError(errno.EACCES, "Permission denied")
FAILURES = {
    "no room for the first file": (store.os, "fsync", FULL, 1),
    "no room for the second file": (store.os, "fsync", FULL, 2),
    "read-only parent": (store.tempfile, "mkdtemp", READ_ONLY, 1),
    "first rename": (store.os, "rename", READ_ONLY, 1),
    "interrupted writing": (store, "_write", KeyboardInterrupt(), 2),
    "interrupted renaming": (store.os, "rename", KeyboardInterrupt(), 1),
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_save_leaves_everything_as_it_was(
    name: str, overwrite: bool, snn: rb.SpikingNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "runs" / "net"
    if overwrite:
        rb.save(snn_of("VGG"), target)
    before = sorted(tmp_path.rglob("*"))
    place, function, error, at = FAILURES[name]
    with monkeypatch.context() as patch:
        patch.setattr(place, function, fail(error, at)(getattr(place, function)))
        with pytest.raises(StoreError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
            rb.save(snn, target, overwrite=overwrite)
    if isinstance(caught.value, StoreError):
        assert str(target) in str(caught.value)
        assert str(error.strerror) in str(caught.value)
        assert caught.value.remedy
    assert sorted(tmp_path.rglob("*")) == before
    if overwrite:
        assert same_network(rb.load(target), snn_of("VGG"))


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_a_swap_that_fails_half_way_is_undone(
    error: BaseException, snn: rb.SpikingNetwork, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail(error, at=2)(os.rename))
        with pytest.raises(StoreError if error is FULL else KeyboardInterrupt):
            rb.save(snn_of("VGG"), folder, overwrite=True)
    assert same_network(rb.load(folder), snn)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_swap_that_cannot_be_undone_keeps_the_old_network(
    snn: rb.SpikingNetwork, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, calls = os.rename, iter(range(9))

    def only_once(source: Path, target: Path) -> None:
        if next(calls):
            raise FULL
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", only_once)
        with pytest.raises(StoreError, match="old network be restored") as caught:
            rb.save(snn_of("VGG"), folder, overwrite=True)
    kept = str(caught.value.remedy).split(" from ")[1]
    assert same_network(rb.load(kept), snn)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a limit on file sizes")
def test_a_system_that_refuses_more_bytes(snn: rb.SpikingNetwork, tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match="File too large"):
            rb.save(snn, tmp_path / "net")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_unasked(folder: Path, snn: rb.SpikingNetwork) -> None:
    with refused(str(folder), "already exists", "overwrite=True"):
        rb.save(snn, folder)
    rb.save(snn_of("VGG"), folder, overwrite=True)
    assert same_network(rb.load(folder), snn_of("VGG"))
    assert list(folder.parent.iterdir()) == [folder]


def test_an_empty_or_damaged_folder_may_be_replaced(snn: rb.SpikingNetwork, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    rb.save(snn, tmp_path / "net", overwrite=True)
    (tmp_path / "net" / store.TENSORS_FILE).unlink()
    rb.save(snn, tmp_path / "net", overwrite=True)
    assert same_network(rb.load(tmp_path / "net"), snn)


@pytest.mark.parametrize("held", [["thesis.tex"], [store.TENSORS_FILE], [store.STRUCTURE_FILE, "thesis.tex"]])
def test_foreign_folders_are_never_replaced(held: list[str], snn: rb.SpikingNetwork, tmp_path: Path) -> None:
    for name in held:
        (tmp_path / name).touch()
    with refused(str(tmp_path), held[-1]):
        rb.save(snn, tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(held)
    with refused("not a folder"):
        rb.save(snn, tmp_path / held[0], overwrite=True)


def test_a_link_stays_a_link(snn: rb.SpikingNetwork, folder: Path) -> None:
    link = folder.parent / "latest"
    link.symlink_to(folder)
    rb.save(snn_of("VGG"), link, overwrite=True)
    assert link.is_symlink()
    assert same_network(rb.load(folder), snn_of("VGG"))


def test_others_may_read_it_as_the_umask_says(folder: Path) -> None:
    old = os.umask(0o022)
    os.umask(old)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~old
    assert (folder / store.TENSORS_FILE).stat().st_mode & 0o777 == 0o666 & ~old
