"""Quantised activations."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rheobase as rb
from rheobase.core.errors import CalibrationError, ModelError, TraceError
from rheobase.neurons import IntegrateFire


def test_worked_out_by_hand() -> None:
    """θ = 2, L = 4: steps of 0.5, and the middle of a step rounds up."""
    z = torch.tensor([[-3.0, -0.2, 0.0, 0.24, 0.25, 0.6, 1.2, 1.74, 1.75, 2.0, 9.0]])
    expected = [[0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]]
    assert rb.QCFS(levels=4, threshold=2.0)(z).tolist() == expected


@given(levels=st.integers(1, 16), seed=st.integers(0, 2**31))
def test_against_plain_loops(levels: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    z, theta = torch.randn(4, 3, 5, generator=g).double(), torch.rand(3, generator=g).double() + 0.2
    activation = rb.QCFS(levels).double()
    activation.threshold.data = theta
    result = activation(z).detach()
    for b in range(4):
        for c in range(3):
            for i in range(5):
                limit = float(theta[c])
                count = float(z[b, c, i]) * levels / limit + 0.5
                count = min(max(count // 1, 0), levels)
                assert float(result[b, c, i]) == pytest.approx(limit * count / levels)


@given(levels=st.integers(1, 16), seed=st.integers(0, 2**31))
def test_at_t_equal_l_the_neuron_emits_the_activation(levels: int, seed: int) -> None:
    """Bu et al. 2022, Theorem 2, for a constant current and V0 = θ/2; not asked for within rounding of a tie."""
    g = torch.Generator().manual_seed(seed)
    theta = torch.rand(3, generator=g).double() + 0.2
    z = torch.randn(50, 3, generator=g).double()
    activation = rb.QCFS(levels).double()
    activation.threshold.data = theta
    neuron = IntegrateFire(theta, torch.tensor(0.5).double())
    currents = z.expand(levels, -1, -1)
    emitted, _ = neuron.run(currents, neuron.init(z.shape, z))
    tie = ((z * levels / theta + 0.5) % 1 - 0.5).abs() > 0.5 - 1e-9
    torch.testing.assert_close(emitted.mean(0)[~tie], activation(z).detach()[~tie])


@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_are_those_of_the_equation(per_channel: bool) -> None:
    z = torch.linspace(-1, 3, 40).reshape(5, 4, 2).requires_grad_()
    theta = torch.tensor([0.7, 1.3, 2.0, 1.0]) if per_channel else torch.tensor(1.3)
    activation = rb.QCFS(4, theta)
    a = activation(z)
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    (a * weight).sum().backward()
    wide = theta.reshape(-1, 1).expand(4, 2) if per_channel else theta.expand(4, 2)
    inside, above = (z > 0) & (z < wide), z >= wide
    torch.testing.assert_close(z.grad, weight * inside)
    by_theta = weight * torch.where(above, 1.0, torch.where(inside, (a - z) / wide, 0.0))
    expected = by_theta.sum((0, 2)) if per_channel else by_theta.sum()
    torch.testing.assert_close(activation.threshold.grad, expected.detach())


def test_gradient_of_theta_against_finite_differences() -> None:
    """Without the floor a = θ clip(z/θ, 0, 1): its derivative in θ is 1 above and 0 elsewhere. The straight-through one
    keeps the quantisation error (a - z)/θ on top, whose mean over a step is 0.
    """
    z = torch.linspace(0, 2, 8001).double()[1:-1].reshape(-1, 1).requires_grad_()
    activation = rb.QCFS(8, 1.3).double()
    activation(z).sum().backward()

    def relaxed(theta: float) -> torch.Tensor:
        return torch.clamp(z.detach(), 0, theta)

    step = 1e-5
    by_theta = (relaxed(1.3 + step) - relaxed(1.3 - step)).sum() / (2 * step)
    assert float(activation.threshold.grad) == pytest.approx(float(by_theta), rel=2e-3)
    above = z.detach() > 1.3 + step
    by_z = torch.where(above | (z.detach() < 0), 0.0, 1.0)
    assert float((z.grad - by_z).abs().mean()) < 1e-3


def test_thresholds_are_the_trained_ones() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 5),
        rb.QCFS(4, torch.rand(5) + 0.5),
        torch.nn.Linear(5, 4),
        rb.QCFS(8, 1.5),
        torch.nn.Linear(4, 3),
    ).eval()
    images = torch.randn(60, 6) * 3
    snn = rb.convert(model, rb.RateCoding(timesteps=4, threshold="saturation"), calibration=images)
    for neuron, module in zip(snn.neurons, (model[1], model[3]), strict=True):
        live = ~neuron.threshold.isinf()
        assert bool(live.any())
        assert torch.equal(neuron.threshold[live], module.threshold.detach().expand(live.shape)[live])
    recipe = rb.RateCoding(timesteps=4, threshold="saturation", granularity="layer")
    with pytest.raises(CalibrationError, match="a threshold for each channel"):
        rb.convert(model, recipe, calibration=images)


def test_a_threshold_that_training_drove_below_zero() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), rb.QCFS(4), torch.nn.Linear(5, 3)).eval()
    model[1].threshold.data.fill_(-0.1)
    with pytest.raises(TraceError, match=r"1 \(QCFS\).*not positive.*Remedy"):
        rb.convert(model, rb.RateCoding(timesteps=2), calibration=torch.randn(10, 6))


@pytest.mark.slow
@pytest.mark.parametrize("activation", [rb.QCFS(4, 1.0), torch.nn.Hardtanh(0, 1)], ids=["QCFS", "RTS"])
def test_ftbc_on_qcfs_and_on_thresholded_relu(activation: torch.nn.Module) -> None:
    """The two kinds of network that the paper adds FTBC to (Wu et al. 2024, section 5)."""
    layers: list[torch.nn.Module] = []
    for width in (6, *[48] * 7):  # errors of the mean add up with depth; in three layers there is nothing to correct
        linear = torch.nn.Linear(width, 48)
        torch.nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, copy.deepcopy(activation)]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(48, 3)).eval()
    recipe = rb.FTBC(timesteps=2, threshold="saturation", batch_size=128)
    snn = rb.convert(model, recipe, calibration=torch.randn(400, 6))
    history = snn.provenance.passes[1]["history"]
    assert min(record["logit_error"] for record in history) < 0.95 * history[0]["logit_error"]
    assert {float(t) for neuron in snn.neurons for t in neuron.threshold} <= {1.0, float("inf")}


@pytest.mark.parametrize(
    ("levels", "threshold", "word"), [(0, 1.0, "levels"), (2.5, 1.0, "levels"), (4, 0.0, "positive")]
)
def test_impossible_activations(levels: int, threshold: float, word: str) -> None:
    with pytest.raises(ModelError, match=word):
        rb.QCFS(levels, threshold)
