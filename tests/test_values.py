"""Values: whatever is wrong with a field is an error of the library that names it."""

from __future__ import annotations

import inspect
import re

import pytest
import torch

import rheobase as rb
from rheobase.core import errors
from rheobase.core.errors import RecipeError, TrainingError
from rheobase.core.values import Value
from rheobase.signals.alignment import Alignment


def concrete(base: type[Value]) -> list[type[Value]]:
    """Every class of values in the library that can be made."""
    found = [
        cls for cls in base.__subclasses__() if not inspect.isabstract(cls) and cls.__module__.startswith("rheobase.")
    ]
    return found + [cls for child in base.__subclasses__() for cls in concrete(child)]


def test_every_value_is_found() -> None:
    assert {rb.Recipe, rb.Training, rb.training.Augmentation, rb.measure.Costs, Alignment, rb.passes.Thresholds} <= set(
        concrete(Value)
    )
    assert len(concrete(Value)) > 15


@pytest.mark.parametrize("cls", concrete(Value), ids=lambda cls: cls.__name__)
def test_an_unknown_field_is_named_with_those_there_are(cls: type[Value]) -> None:
    known = ", ".join(cls.model_fields)
    with pytest.raises(cls.refusal, match=re.escape("unknown field 'colour'") + ".*" + re.escape(known)):
        cls(colour="red")


@pytest.mark.parametrize(
    ("make", "refusal", "said"),
    [
        (lambda: rb.passes.SpatialRecalibration(epochs=0), RecipeError, "spatial_recalibration: epochs: .* (got 0)"),
        (lambda: Alignment(expansion="repeat"), RecipeError, "alignment: expansion: .* (got 'repeat')"),  # type: ignore[arg-type]
        (lambda: rb.measure.Costs(name="mine", ac=1), RecipeError, "costs: mac: field required. Remedy"),  # type: ignore[call-arg]
        (lambda: rb.measure.Costs(name="mine", mac=1, ac=-1), RecipeError, "costs: ac: .* (got -1). Remedy"),
        (
            lambda: rb.Recipe(name="x", timesteps=4, calibration=({"kind": "thresholds", "percentile": 101},)),  # type: ignore[arg-type]
            RecipeError,
            "thresholds: percentile: .* (got 101)",
        ),
        (
            lambda: rb.Training(epochs=1, learning_rate=1, warmup_epochs=1),
            TrainingError,
            "training: warmup_epochs 1 .* Remedy",
        ),
    ],
)
def test_what_is_wrong_is_said_once(make, refusal, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(refusal, match="^" + said.replace("(", r"\(").replace(")", r"\)")):
        make()


@pytest.mark.parametrize("number", [True, float("nan"), float("inf")])
def test_what_is_no_number(number: float) -> None:
    """Pydantic alone would take True for 1."""
    for field in ("epochs", "learning_rate", "weight_decay"):
        with pytest.raises(TrainingError, match=f"^training: {field}: .*got {number}"):
            rb.Training(**{"epochs": 1, "learning_rate": 0.1, field: number})  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=f"ridge: .*got {number}"):
        rb.passes.WeightRegression(ridge=number)
    assert rb.Training(epochs=1, learning_rate=0.1, exact_statistics=True).exact_statistics


@pytest.mark.parametrize(
    "make",
    [
        lambda: rb.RMP(timesteps=True),
        lambda: rb.TPP(4, seed=True),
        lambda: rb.RateCoding(True),
        lambda: rb.AdaFire(magnitudes=(1, True)),
        lambda: rb.data.readers.Preprocessing(mean=(True,)),
    ],
)
def test_a_boolean_is_no_number_of_a_method(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(rb.RheobaseError, match="is a boolean"):
        make()
    assert rb.RateCoding(timesteps=2, scale=True).calibration


def test_equal_values_have_equal_hashes() -> None:
    one, other = (rb.methods.IntegrateFireNeuron(timesteps=steps) for steps in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert one == other
    assert hash(one) == hash(other)


def test_a_part_without_a_kind_is_called_by_its_class() -> None:
    class Nameless(Value):
        kind: str
        size: int

    with pytest.raises(RecipeError, match=r"^Nameless: kind: field required; size: field required"):
        Nameless()  # type: ignore[call-arg]


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(RecipeError, match=r"Thresholds.percentile: is read-only"):
        rb.passes.Thresholds().percentile = 50.0  # type: ignore[misc]


def test_errors_are_what_python_people_catch() -> None:
    """Impossible values are ValueErrors, wrong types TypeErrors too; nothing of pydantic's is seen."""
    with pytest.raises(ValueError, match="timesteps"):
        rb.RateCoding(timesteps=0)
    with pytest.raises(ValueError, match="percent"):
        rb.passes.Thresholds.model_validate({"percent": 3})
    with pytest.raises(TypeError, match=r"not a torch\.nn\.Module"):
        rb.convert("net", rb.OPI(), calibration=torch.rand(4, 3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pass a recipe"):
        rb.convert(torch.nn.ReLU(), "OPI", calibration=torch.rand(4, 3))  # type: ignore[arg-type]
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, rb.RheobaseError) and error is not rb.RheobaseError:
            assert issubclass(error, RuntimeError if error is errors.ResourceError else ValueError), name


def test_copies_are_checked() -> None:
    part = rb.passes.Thresholds()
    assert part.replace(percentile=99.0).percentile == 99.0
    for copy in (part.replace, lambda **fields: part.model_copy(update=fields)):
        with pytest.raises(RecipeError, match="percentile"):
            copy(percentile=-1)
        with pytest.raises(RecipeError, match="unknown field 'nothing'"):
            copy(nothing=1)
