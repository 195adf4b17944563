from __future__ import annotations

import os
import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable
from fractions import Fraction
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from rheobase.core import user_code
from rheobase.core.errors import ModelError, RheobaseWarning
from rheobase.exchange.checkpoints import load

SOURCE = """
from torch import nn
def make(): return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3))
def wide(): return nn.Sequential(*[nn.Linear(1, 1) for _ in range(8)])
def wrapped(): return nn.ModuleDict({"module": nn.Linear(2, 2)})
def sized(classes, bias=True): return nn.Linear(4, classes, bias=bias)
def infinite():
    net = nn.Linear(2, 2); nn.init.constant_(net.bias, float("inf")); return net
def nothing(): return None
def failing(): raise ValueError("no weights")
value = 3
"""


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets_for_test.py").write_text(SOURCE)
    monkeypatch.delitem(sys.modules, "nets_for_test", raising=False)


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3))
    return dict(net.state_dict())


def refusal(spec: str = "nets_for_test:make", checkpoint: str | Path | None = None) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(spec, checkpoint)
    assert caught.value.where == str(spec if checkpoint is None else checkpoint)
    assert caught.value.remedy
    return caught.value


def test_the_function_alone_gives_a_network_in_eval_mode() -> None:
    before = list(sys.path)
    net = load("nets_for_test:make")
    assert isinstance(net, nn.Sequential)
    assert not any(part.training for part in net.modules())
    assert sys.path == before


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.bin", "W.PT", "w.ckpt", "w.pth.tar"])
def test_checkpoint_kinds(name: str) -> None:
    state = weights()
    save_file(state, name) if "safe" in name else torch.save(state, name)
    net = load("nets_for_test:make", name)
    assert not net.training
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"model_state_dict": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {key.replace(".", "._orig_mod.", 1): value for key, value in state.items()},
        lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 1},
        lambda state: {f"learner.backbone.{key}": value for key, value in state.items()},
        lambda state: {"net": state, "acc": np.float64(91.5), "lr": np.float32(0.1), "seen": np.int64(3)},
        lambda state: {"model_state": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        lambda state: {"model": {"state_dict": state}, "random": np.random.default_rng(0).random(3)},
        lambda state: {
            "generator": {"a": torch.ones(1)},
            "classifier": state,
            "args": Namespace(lr=0.1, out=Path("x")),
        },
    ],
)
def test_checkpoint_forms(nest: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = weights()
    torch.save(nest(state), "w.pt")
    assert torch.equal(load("nets_for_test:make", "w.pt").state_dict()["0.weight"], state["0.weight"])


@pytest.mark.parametrize("prefix", ["module.", "", "model.module.", "other."])
def test_a_prefix_of_the_network_itself_stays(prefix: str) -> None:
    torch.save({f"{prefix}weight": torch.eye(2), f"{prefix}bias": torch.ones(2)}, "w.pt")
    assert torch.equal(load("nets_for_test:wrapped", "w.pt").state_dict()["module.weight"], torch.eye(2))


def test_names_of_numpy_1_are_read() -> None:
    torch.save({"state_dict": weights(), "best": np.float64(0.9)}, "w.pt")
    with zipfile.ZipFile("w.pt") as new, zipfile.ZipFile("old.pt", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            old.writestr(name, content.replace(b"numpy._core", b"numpy.core") if name.endswith(".pkl") else content)
    load("nets_for_test:make", "old.pt")


def test_entries_of_other_modules_are_named() -> None:
    state = {f"model.{key}": value for key, value in weights().items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(3)}}, "w.ckpt")
    with pytest.warns(RheobaseWarning, match=r"w\.ckpt: the entries criterion\.weight belong to other modules"):
        net = load("nets_for_test:make", "w.ckpt")
    assert torch.equal(net.state_dict()["0.weight"], state["model.0.weight"])


@pytest.mark.parametrize("fit", [True, False])
def test_several_state_dicts_are_not_guessed(fit: bool) -> None:
    other = weights() if fit else {"a": torch.ones(1)}
    torch.save({"student": other, "teacher": other}, "w.pt")
    fitting = "student, teacher" if fit else "none"
    assert f"the state dicts student, teacher, of which {fitting} fit" in refusal(checkpoint="w.pt").reason


def test_the_function_takes_options() -> None:
    net = load("nets_for_test:sized", options={"classes": 7, "bias": False})
    assert net.out_features == 7
    assert net.bias is None
    with pytest.raises(ModelError, match=r"classes='many' failed.*--model-option"):
        load("nets_for_test:sized", options={"classes": "many"})
    error = refusal("nets_for_test:sized")
    assert "missing a required argument: 'classes'" in error.reason
    assert "--model-option name=value" in str(error.remedy)


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


NAMES = st.from_regex(r"[a-z_]{1,6}", fullmatch=True).filter(lambda name: not iskeyword(name))


@given(options=st.dictionaries(NAMES, LITERALS))
def test_arguments_in_brackets_are_those_of_the_call(options: dict[str, object]) -> None:
    written = ", ".join(f"{name}={value!r}" for name, value in options.items())
    assert user_code.names_function(f"builtins:dict({written})")
    assert user_code.call(f"builtins:dict({written})", ModelError) == options


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("(7)", "has arguments that are not names with values, each once"),
        ("(classes=7, classes=8)", "each once"),
        ("(**{'classes': 7})", "each once"),
        ("(classes=7)(bias=False)", "each once"),
        ("(classes=int('7'))", "has arguments that are not literal values"),
        ("(classes=7", "is not of the form module:function"),
        ("(classes=)", "literal values"),
        (
            "(classes=7, width=7)",
            "'width'; its arguments are (classes, bias=True). Remedy: give its arguments as nets_for",
        ),
        ("(classes=0.5)", "the call with classes=0.5 failed"),
    ],
)
def test_arguments_that_cannot_be(arguments: str, said: str) -> None:
    spec = f"nets_for_test:sized{arguments}"
    assert said in str(refusal(spec))


def test_arguments_in_brackets_and_by_option() -> None:
    assert load("nets_for_test:sized(classes=7)", options={"bias": False}).bias is None
    with pytest.raises(ModelError, match=r"'classes', which is also given by --model-option.*give it once"):
        load("nets_for_test:sized(classes=7)", options={"classes": 7})


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    torch.save(weights(), tmp_path / "home" / "w.pt")
    load("nets_for_test:make", "~/w.pt")


def test_every_misfit_is_listed() -> None:
    state = weights()
    del state["0.bias"]
    state |= {"head.bias": torch.ones(1), "2.weight": torch.ones(5, 4)}
    save_file(state, "w.safetensors")
    assert refusal(checkpoint="w.safetensors").reason == (
        "does not fit the network (missing keys: 0.bias; unexpected keys: head.bias; "
        "wrongly shaped: 2.weight (file (5, 4), network (3, 4)))"
    )


def test_other_names_for_the_same_shapes_are_not_guessed_but_can_be_replaced() -> None:
    """A layer may be defined in another order than the one of its shape here, so the user decides."""
    other = {f"stem{name}": value for name, value in weights().items()}
    torch.save(other, "w.pt")
    found = refusal(checkpoint="w.pt")
    assert "missing keys: 0.weight" in found.reason
    assert "dict(zip(network.state_dict(), state.values()))" in str(found.remedy)
    own = load("nets_for_test:make").state_dict()
    torch.save(dict(zip(own, torch.load("w.pt", weights_only=True).values(), strict=True)), "renamed.pt")
    loaded = load("nets_for_test:make", "renamed.pt").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights().items())
    for changed in (dict(reversed(other.items())), {**other, "more": torch.ones(1)}):
        torch.save(changed, "w.pt")
        assert "zip" not in str(refusal(checkpoint="w.pt").remedy)
    save_file(other, "w.safetensors")
    assert "zip" not in str(refusal(checkpoint="w.safetensors").remedy)


def test_long_lists_are_cut() -> None:
    torch.save({f"k{i:02}": torch.ones(1) for i in range(12)}, "w.pt")
    reason = refusal("nets_for_test:wide", "w.pt").reason
    assert "4.weight, 4.bias and 6 more" in reason
    assert "k09 and 2 more" in reason
    assert "k10" not in reason


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad: float) -> None:
    state = weights()
    state["1.running_var"][1] = state["2.bias"][0] = bad
    torch.save(state, "w.pt")
    assert "1.running_var" in refusal(checkpoint="w.pt").reason
    assert "tensor bias" in refusal("nets_for_test:infinite").reason


@pytest.mark.parametrize("content", [nn.Linear(2, 2), {"state_dict": {}, "best": Fraction(1, 2)}])
def test_pickles_with_code_are_refused(content: object) -> None:
    torch.save(content, "w.pt")
    error = refusal(checkpoint="w.pt")
    assert "objects other than tensors" in error.reason
    assert "Unsupported global: GLOBAL" in error.reason
    assert "weights_only=False" in str(error.remedy)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*TorchScript:UserWarning")
def test_scripted_networks_are_refused() -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "w.pt")
    assert "weights_only=False" in str(refusal(checkpoint="w.pt").remedy)


def test_unpickling_runs_no_code() -> None:
    class Mine:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, ("ran",)

    torch.save({"a": Mine()}, "w.pt")
    refusal(checkpoint="w.pt")
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_damaged_files(name: str) -> None:
    state = weights()
    save_file(state, name) if "safe" in name else torch.save(state, name)
    whole = Path(name).read_bytes()
    for content in (b"", b"text, not weights", whole[: len(whole) // 2]):
        Path(name).write_bytes(content)
        error = refusal(checkpoint=name)
        assert "damaged" in error.reason
        assert error.remedy == "copy or save the checkpoint again"


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({"net": {"a": 1}, "epoch": 1}, "the keys net, epoch"),
        ([1, 2], "list"),
        ({}, "an empty dict"),
        ({"model": {}}, "the keys model"),
        (torch.ones(2), "Tensor"),
        ({1: torch.ones(1)}, "the keys 1"),
    ],
)
def test_files_without_a_state_dict(content: object, held: str) -> None:
    torch.save(content, "w.pt")
    error = refusal(checkpoint="w.pt")
    assert error.reason == f"holds no state dict, but {held}"
    assert "state_dict, model_state_dict, model" in str(error.remedy)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    assert refusal(checkpoint="gone.pt").reason == "is not a file"
    (tmp_path / "d.pt").mkdir()
    assert refusal(checkpoint="d.pt").reason == "is not a file"
    assert "'.onnx'" in refusal(checkpoint="net.onnx").reason


def test_unreadable_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    torch.save(weights(), "w.pt")
    monkeypatch.setattr(torch, "load", deny)
    error = refusal(checkpoint="w.pt")
    assert "cannot be read" in error.reason


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nets_for_test", "not of the form module:function"),
        ("nets_for_test:", "not of the form module:function"),
        ("nets_for_test.py:make", "cannot be imported"),
        ("no_such_nets:make", "No module named 'no_such_nets'"),
        ("nets_for_test:gone", "has no function 'gone'"),
        ("nets_for_test:value", "'value', which is not callable"),
        ("nets_for_test:failing", "failed (ValueError: no weights)"),
        ("nets_for_test:nothing", "returned NoneType, not a torch.nn.Module"),
    ],
)
def test_faulty_specs(spec: str, reason: str) -> None:
    assert reason in refusal(spec).reason


def test_a_module_with_a_syntax_error() -> None:
    Path("broken_nets_for_test.py").write_text("def make(:")
    assert "SyntaxError" in refusal("broken_nets_for_test:make").reason
