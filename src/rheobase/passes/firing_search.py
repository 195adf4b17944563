"""The largest number of spikes in a step and a factor of the threshold for every site, by a Pareto search (AdaFire)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.core.progress import track
from rheobase.data import CalibrationData
from rheobase.network import SpikingNetwork
from rheobase.neurons import Burst
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.signals.signal import Signal, count_spikes

ATTEMPTS = 4
"""Number of combinations of factors that are measured."""
BINS = 2000
"""Of the number of spikes, in the search: of the combinations in a bin only the least sensitive one is kept."""


class FiringSearch(CalibrationPass):
    r"""Choose φ, the largest number of spikes in a step, and a factor ρ of θ for every site, for a number of spikes.

    A site with φ has the threshold θ/φ, so that T steps have φ T levels up to the same saturation value: more spikes
    and a finer resolution. For each site and candidate, the sensitivity is the mean divergence of the network's outputs
    from the analog network's, with this candidate at this site alone and the largest φ at all others,

    .. math:: S_l(\phi) = \mathrm{KL}\big(\mathrm{softmax}(o_{ANN}) \,\|\, \mathrm{softmax}(o_{SNN})\big)

    (the distance of the network's task), and R is the number of spikes of the whole network. Sensitivities and spikes
    of the sites are added; of all combinations with :math:`\sum_l R_l \le` ``spikes`` times the number for the largest
    φ everywhere, the one with the least :math:`\sum_l S_l` is taken. Then, by the same search, factors ρ >= 1 of the
    thresholds are chosen that give the fewest spikes while the sum of sensitivities grows by at most ``tolerance``
    (Wang et al. 2025, "Adaptive-firing neurons", AdaFire: firing patterns and compression).

    A sum says little of many changes at once, so the factors are then measured together. If the divergence has grown by
    more than ``tolerance``, the sum may grow by a quarter of what it could, three times; then the thresholds stay.

    A simulation of ``images`` images for each site and candidate. The result is compared with the start on held-out
    images, and the start is kept if it has no more spikes and a smaller divergence.

    Args:
        magnitudes: candidates of φ.
        factors: candidates of ρ.
        spikes: limit of the number of spikes, as a fraction of that with the largest φ everywhere.
        tolerance: allowed growth of the divergence by the factors, as a fraction; 0 leaves the thresholds.
        images: number of calibration images.

    Raises:
        CalibrationError: if the neurons are not burst neurons, no images are held out, or no combination has so few
            spikes.
    """

    kind: Literal["firing_search"] = "firing_search"
    magnitudes: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2, 3, 4), min_length=1)
    factors: tuple[Annotated[float, Field(ge=1)], ...] = Field(default=(1.0, 1.25, 1.5), min_length=1)
    spikes: float = Field(default=1.0, gt=0, le=1)
    tolerance: float = Field(default=0.1, ge=0)
    images: int = Field(default=128, ge=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set the magnitudes and thresholds."""
        for site in network.sites:
            neuron = settable(network, site, "threshold", streaming=True)
            if type(neuron) is not Burst:
                reason = f"has {type(neuron).__name__} neurons, whose largest number of spikes is not searched"
                raise CalibrationError(reason, where=site.name, remedy="use burst neurons, as rb.AdaFire does")
        if not len(data.held_out):
            reason, remedy = "has no held-out images, by which the search is judged", "give at least five images"
            raise CalibrationError(reason, where="calibration data", remedy=remedy)
        images, changes = data.fit[: self.images], Changes()
        start = [_settings(network, i) for i in range(len(network.sites))]
        before = _measure(network, data.held_out)
        measure = _Measure(network, images)
        largest = max(self.magnitudes)
        self._search(network, measure, "magnitude", sorted(set(self.magnitudes)), largest, changes, progress)
        if self.tolerance:
            self._search(network, measure, "factor", sorted(set(self.factors) | {1.0}), 1.0, changes, progress)
        after = _measure(network, data.held_out)
        note = f"divergence on {len(data.held_out)} held-out images {before.divergence:.3g} -> {after.divergence:.3g}"
        note += f", spikes an image {before.spikes:.4g} -> {after.spikes:.4g}"
        if before.divergence < after.divergence and before.spikes <= after.spikes:
            for i, (magnitude, threshold) in enumerate(start):
                _set(network, i, magnitude, threshold)
            note = f"reverted, the original network kept: {note}"
        else:
            changes.changed = {site.name: ["magnitude", "threshold"] for site in network.sites}
        changes.notes.append(note)
        return changes

    def _search(
        self,
        network: SpikingNetwork,
        measure: Callable[[], Outcome],
        what: Literal["magnitude", "factor"],
        candidates: Sequence[Any],
        reference: Any,
        changes: Changes,
        progress: bool,
    ) -> None:
        """Measure each candidate at each site alone, and set the best combination."""
        sites = range(len(network.sites))
        start = [_settings(network, i) for i in sites]

        def put(i: int, candidate: Any) -> None:
            magnitude, threshold = start[i]
            if what == "magnitude":
                _set(network, i, candidate, threshold / candidate)
            else:
                _set(network, i, magnitude, threshold * candidate)

        for i in sites:
            put(i, reference)
        whole = measure()
        table: list[list[Outcome]] = []
        for i in track(sites, f"searching for {what}s", show=progress, total=len(sites)):
            row = []
            for candidate in candidates:
                put(i, candidate)
                row.append(whole if candidate == reference else measure())
            put(i, reference)
            table.append([Outcome(each.divergence - whole.divergence, each.spikes - whole.spikes) for each in row])
        if what == "magnitude":
            limit = (self.spikes - 1) * whole.spikes
            chosen = cheapest(table, lambda total: total.divergence if total.spikes <= limit else None)
        else:
            chosen = self._compressed(table, whole, measure, lambda i, k: put(i, candidates[k]))
        if chosen is None:
            least = 1 + sum(min(each.spikes for each in row) for row in table) / whole.spikes
            raise CalibrationError(
                f"is {self.spikes:g}, but no combination of {what}s has fewer than {least:.3g} of the spikes",
                where="spikes",
                remedy=f"allow at least {least:.3g}, or give smaller magnitudes",
            )
        for i, k in enumerate(chosen):
            put(i, candidates[k])
        found = {site.name: candidates[k] for site, k in zip(network.sites, chosen, strict=True)}
        changes.history.append({"what": what, "chosen": found, "divergence": whole.divergence, "spikes": whole.spikes})

    def _compressed(
        self,
        table: list[list[Outcome]],
        whole: Outcome,
        measure: Callable[[], Outcome],
        put: Callable[[int, int], None],
    ) -> list[int]:
        """The combination with the fewest spikes whose divergence, measured, grows by at most ``tolerance``."""
        allowed = self.tolerance * whole.divergence
        for _ in range(ATTEMPTS):

            def spikes(total: Outcome, most: float = allowed) -> float | None:
                return total.spikes if total.divergence <= most else None

            chosen = cheapest(table, spikes)
            if chosen is not None:
                for i, k in enumerate(chosen):
                    put(i, k)
                if measure().divergence <= (1 + self.tolerance) * whole.divergence:
                    return chosen
            allowed /= 4
        return [0] * len(table)  # the factor 1


@dataclass(frozen=True)
class Outcome:
    """Mean divergence from the analog network, and mean number of spikes an image; or changes of both."""

    divergence: float
    spikes: float


def cheapest(table: Sequence[Sequence[Outcome]], cost: Callable[[Outcome], float | None]) -> list[int] | None:
    """One entry of each row such that the sum of the entries has the least cost; None if no sum has a cost.

    Sums are built row by row. Of sums with nearly the same spikes (``BINS``) the one with the least divergence is kept,
    and of these only the Pareto front: no other has less of both.

    Example:
        >>> table = [[Outcome(0.0, 3.0), Outcome(1.0, 1.0)], [Outcome(0.0, 5.0), Outcome(0.1, 1.0)]]
        >>> cheapest(table, lambda total: total.divergence if total.spikes <= 4 else None)
        [0, 1]
    """
    sums: list[tuple[Outcome, list[int]]] = [(Outcome(0.0, 0.0), [])]
    width = sum(max(abs(each.spikes) for each in row) for row in table) / BINS or 1.0
    for row in table:
        best: dict[int, tuple[Outcome, list[int]]] = {}
        for total, chosen in sums:
            for k, each in enumerate(row):
                new = Outcome(total.divergence + each.divergence, total.spikes + each.spikes)
                place = round(new.spikes / width)
                if place not in best or new.divergence < best[place][0].divergence:
                    best[place] = new, [*chosen, k]
        sums = []
        for place in sorted(best):  # rising spikes: only a smaller divergence is worth them
            if not sums or best[place][0].divergence < sums[-1][0].divergence:
                sums.append(best[place])
    costs = [(value, chosen) for total, chosen in sums if (value := cost(total)) is not None]
    return min(costs, default=(0.0, None), key=lambda pair: pair[0])[1]


class _Measure:
    """The outcome of a network as it is, on fixed images; the analog network runs once."""

    def __init__(self, network: SpikingNetwork, images: Tensor) -> None:
        self.network, self.images = network, images
        with torch.inference_mode():
            self.reference = network.ann(images.to(network.graph.device)).double()

    def __call__(self) -> Outcome:
        spikes = 0.0

        def add(site: Any, emitted: Signal) -> None:
            nonlocal spikes
            spikes += float(count_spikes(emitted).magnitude.sum())

        logits = self.network.readouts(self.images, (self.network.timesteps,), monitor=add)[0]
        divergence = self.network.task.distance(logits.double(), self.reference)
        return Outcome(float(divergence), spikes / len(self.images))


def _measure(network: SpikingNetwork, images: Tensor) -> Outcome:
    return _Measure(network, images)()


def _settings(network: SpikingNetwork, index: int) -> tuple[int, Tensor]:
    neuron = network.neurons[index]
    assert isinstance(neuron, Burst)
    return neuron.magnitude, neuron.threshold


def _set(network: SpikingNetwork, index: int, magnitude: int, threshold: Tensor) -> None:
    neuron = network.neurons[index]
    assert isinstance(neuron, Burst)
    network.neurons[index] = neuron.rebuilt(magnitude=magnitude, threshold=threshold)
