"""Tasks whose outputs are decisions: classification, one logit, several labels, segmentation.

Each decision is the largest of some logits, which a softmax turns into probabilities. A single logit z, for yes or no,
stands for the logits (0, z): its softmax is the sigmoid of z, its cross-entropy the binary one, and its decision is
the sign of z. So loss, distillation and agreement have one definition for all these tasks.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from rheobase.core.torchvision import repair_torchvision
from rheobase.tasks.task import IGNORED, Measure, Scores, Task, refuse, refuse_shape

_ZERO_OR_ONE = "is {}, but must be 0 or 1"
_F1 = Measure("f1", "F1", "harmonic mean of precision and recall of all positive decisions", share=True)
_VOID = 255
"""Class of pixels without a label in PASCAL VOC, Cityscapes and many other data sets."""


class Decisions(Task):
    """The base of tasks whose outputs are decisions."""

    @abstractmethod
    def logits(self, outputs: Tensor) -> Tensor:
        """Outputs [B, ...] as logits [B, classes, ...], with one decision at each further place."""

    def decide(self, outputs: Tensor) -> Tensor:
        """The class of each decision, [B, ...]."""
        return self.logits(outputs).argmax(1)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy, the mean over all decisions."""
        return F.cross_entropy(self.logits(outputs), targets, label_smoothing=smoothing)

    def distance(self, outputs: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """τ² KL(softmax(reference / τ) ‖ softmax(outputs / τ)), the mean over all decisions (Hinton et al. 2015)."""
        student, teacher = (F.log_softmax(self.logits(x) / temperature, 1) for x in (outputs, reference))
        total = F.kl_div(student, teacher, reduction="sum", log_target=True)
        return temperature**2 * (total / (student.numel() // student.shape[1]))

    def agreement(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """Share of equal decisions for each image."""
        return (self.decide(outputs) == self.decide(reference)).reshape(len(outputs), -1).double().mean(1)

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Number of right decisions, and of all with a target."""
        known = targets != IGNORED
        return torch.stack([((self.decide(outputs) == targets) & known).sum(), known.sum()])


class Classification(Decisions):
    """One of C classes for each image; outputs [C]."""

    name = "classification"
    needs = "one whole number for each image"
    measures = (Measure("accuracy", "accuracy", "share of images whose largest logit is the label's", share=True),)

    def fits(self, outputs: Sequence[int]) -> bool:
        """[C] with C of 2 or more."""
        return len(outputs) == 1 and outputs[0] > 1

    def check(self, outputs: Sequence[int], labels: Tensor, where: str, offset: int = 0) -> None:
        """Whole numbers [N] from 0 to C − 1."""
        if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
            refuse_shape(labels, where, self.needs)
        _check_classes(labels, (labels < 0) | (labels >= outputs[0]), outputs[0], where, offset)

    def targets(self, labels: Tensor) -> Tensor:
        """As int64."""
        return labels.long()

    def logits(self, outputs: Tensor) -> Tensor:
        """The outputs."""
        return outputs


class Binary(Decisions):
    """Yes or no for each image, by the sign of one logit; outputs [1] or []."""

    name = "binary"
    needs = "one 0 or 1 for each image"
    measures = (Measure("accuracy", "accuracy", "share of images whose logit has the label's sign", share=True), _F1)

    def fits(self, outputs: Sequence[int]) -> bool:
        """[1] or []."""
        return len(outputs) < 2 and prod(outputs) == 1

    def check(self, outputs: Sequence[int], labels: Tensor, where: str, offset: int = 0) -> None:
        """Zeros and ones of any dtype, [N] or [N, 1]."""
        if labels.shape[1:] not in ((), (1,)):
            refuse_shape(labels, where, self.needs)
        _check_zero_or_one(labels, where, offset)

    def targets(self, labels: Tensor) -> Tensor:
        """As int64 [N]."""
        return labels.reshape(-1).long()

    def logits(self, outputs: Tensor) -> Tensor:
        """(0, z), [B, 2]."""
        return _paired(outputs.reshape(-1))

    def scores(self, outputs: Sequence[int]) -> Scores:
        """Accuracy and F1."""
        return _BinaryScores(self)


class _BinaryScores(Scores):
    def __init__(self, task: Binary) -> None:
        repair_torchvision()
        from torchmetrics.classification import BinaryF1Score  # takes a second, and only measuring needs it

        super().__init__(task)
        self.f1, self.decide = BinaryF1Score(), task.decide

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(outputs, targets)
        self.f1.update(self.decide(outputs), targets)

    def compute(self) -> dict[str, float]:
        return {**super().compute(), "f1": float(self.f1.compute())}


class MultiLabel(Decisions):
    """Yes or no for each of C labels, by the sign of each logit; outputs [C]."""

    name = "multilabel"
    needs = "one 0 or 1 for each image and label, [N, C]"
    measures = (
        Measure("map", "mAP", "average precision of a label, mean over the labels that occur", share=True),
        _F1,
        Measure("accuracy", "accuracy", "share of labels, over all images, whose logit has the right sign", share=True),
    )

    def fits(self, outputs: Sequence[int]) -> bool:
        """[C] with C of 2 or more."""
        return len(outputs) == 1 and outputs[0] > 1

    def check(self, outputs: Sequence[int], labels: Tensor, where: str, offset: int = 0) -> None:
        """Zeros and ones of any dtype, [N, C]."""
        if labels.shape[1:] != tuple(outputs):
            refuse_shape(labels, where, self.needs.replace("C", str(outputs[0])))
        _check_zero_or_one(labels, where, offset)

    def targets(self, labels: Tensor) -> Tensor:
        """As int64 [N, C]."""
        return labels.long()

    def logits(self, outputs: Tensor) -> Tensor:
        """(0, z) for each label, [B, 2, C]."""
        return _paired(outputs)

    def scores(self, outputs: Sequence[int]) -> Scores:
        """Mean average precision, F1 over all labels, and accuracy."""
        return _MultiLabelScores(self, outputs[0])


class _MultiLabelScores(Scores):
    def __init__(self, task: MultiLabel, count: int) -> None:
        repair_torchvision()
        from torchmetrics.classification import BinaryF1Score, MultilabelAveragePrecision

        super().__init__(task)
        self.precision, self.f1 = MultilabelAveragePrecision(count, average=None), BinaryF1Score()
        self.decide, self.occurs = task.decide, torch.zeros(count, dtype=torch.bool)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(outputs, targets)
        # torchmetrics takes numbers that are all from 0 to 1 for probabilities, so it never gets logits.
        self.precision.update(outputs.double().sigmoid(), targets)
        self.f1.update(self.decide(outputs).flatten(), targets.flatten())
        self.occurs |= targets.any(0)

    def compute(self) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on labels that do not occur, whose precision is left out here
            precisions = self.precision.compute()[self.occurs]
        found = float(precisions.double().mean()) if len(precisions) else 0.0
        return {"map": found, "f1": float(self.f1.compute()), **super().compute()}


class Segmentation(Decisions):
    """One of C classes for each pixel; outputs [C, H, W], or [1, H, W] for yes or no by the sign.

    Pixels of class -100, PyTorch's, are without a label; of several classes also those of class 255, if C is not
    greater.
    """

    name = "segmentation"
    needs = "one whole number for each pixel of the output"
    measures = (
        Measure("miou", "mean IoU", "intersection over union of a class, mean over the classes", share=True),
        Measure("accuracy", "pixel accuracy", "share of labelled pixels with the right class", share=True),
    )

    def fits(self, outputs: Sequence[int]) -> bool:
        """[C, H, W], or any number of places after C."""
        return len(outputs) > 1

    def check(self, outputs: Sequence[int], labels: Tensor, where: str, offset: int = 0) -> None:
        """Whole numbers [N, H, W] or [N, 1, H, W] from 0 to C − 1; for one channel zeros and ones of any dtype."""
        count, places = outputs[0], tuple(outputs[1:])
        if labels.shape[1:] not in (places, (1, *places)) or (labels.is_floating_point() and count > 1):
            needs = f"{self.needs}, of shape {['N', *places]}".replace("'", "")
            refuse_shape(labels, where, f"{needs}; resize the labels, or let the network resize its output")
        ignored = labels == IGNORED
        if count == 1:
            _check_zero_or_one(labels, where, offset, ignored)
            return
        wrong = (labels < 0) | (labels >= count)
        _check_classes(labels, wrong & ~ignored & (labels != _VOID), count, where, offset)

    def targets(self, labels: Tensor) -> Tensor:
        """As int64 [N, ...]."""
        return labels.long()

    def logits(self, outputs: Tensor) -> Tensor:
        """The outputs; (0, z) for one channel."""
        return _paired(outputs[:, 0]) if outputs.shape[1] == 1 else outputs

    def decide(self, outputs: Tensor) -> Tensor:
        """The class of each pixel, [B, H, W]."""
        return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy, the mean over all labelled pixels; 0 without any."""
        logits, targets = self.logits(outputs), self._placed(outputs, targets)
        total = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1)

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Number of right pixels, and of all with a target."""
        return super().right(outputs, self._placed(outputs, targets))

    def scores(self, outputs: Sequence[int]) -> Scores:
        """Mean IoU and pixel accuracy."""
        return _SegmentationScores(self, outputs[0])

    @staticmethod
    def _placed(outputs: Tensor, targets: Tensor) -> Tensor:
        """Targets [B, H, W], with -100 for every pixel without a label."""
        targets = targets.reshape(len(outputs), *outputs.shape[2:])
        return targets if outputs.shape[1] > _VOID else torch.where(targets == _VOID, IGNORED, targets)


class _SegmentationScores(Scores):
    def __init__(self, task: Segmentation, count: int) -> None:
        repair_torchvision()
        from torchmetrics.classification import MulticlassJaccardIndex

        super().__init__(task)
        self.decide = task.decide
        self.iou = MulticlassJaccardIndex(max(count, 2), ignore_index=IGNORED)  # classes that do not occur are left out

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        super().update(outputs, targets)
        decided = self.decide(outputs)
        self.iou.update(decided, targets.reshape(decided.shape))

    def compute(self) -> dict[str, float]:
        if not self.counts[1]:  # no labelled pixel
            return {}
        return {"miou": float(self.iou.compute()), **super().compute()}


def _paired(z: Tensor) -> Tensor:
    """The logits (0, z) of each number, [B, 2, ...]."""
    return torch.stack([torch.zeros_like(z), z], 1)


def _check_classes(labels: Tensor, bad: Tensor, count: int, where: str, offset: int) -> None:
    reason = f"is {{}}, but the network has {count} classes (0 to {count - 1})"
    remedy = "number the classes from 0, and give the network one output for each class"
    refuse(labels, bad, reason, where, offset, remedy)


def _check_zero_or_one(labels: Tensor, where: str, offset: int, ignored: Tensor | bool = False) -> None:
    bad = (labels != 0) & (labels != 1) & ~torch.as_tensor(ignored)
    remedy = 'give 0 for no and 1 for yes, or pass task="regression" if these are quantities'
    refuse(labels, bad, _ZERO_OR_ONE, where, offset, remedy)
