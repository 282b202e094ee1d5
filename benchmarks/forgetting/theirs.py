"""Avalanche's side; runs in an environment of its own, see `environment.py`."""

import copy

import numpy as np
import torch
from torch import nn

from forgetting import stand_ins  # noqa: F401  (before Avalanche)
from forgetting.study import (
    BATCH,
    BETA,
    BUFFER,
    DAMPING,
    EPSILON,
    HIDDEN,
    RATE,
    REPLAYING,
    TEMPERATURE,
    Setting,
    Tasks,
    batches,
    timed,
)

import avalanche  # isort: skip
from avalanche.benchmarks import (  # isort: skip
    benchmark_from_datasets,
    with_classes_timeline,
    with_task_labels,
)
from avalanche.benchmarks.utils.classification_dataset import (  # isort: skip
    _make_taskaware_tensor_classification_dataset as as_dataset,
)
from avalanche.core import SupervisedPlugin  # isort: skip
from avalanche.models import MultiTaskModule  # isort: skip
from avalanche.training.plugins import AGEMPlugin, EWCPlugin, LwFPlugin, ReplayPlugin  # isort: skip
from avalanche.training.supervised import DER, JointTraining, Naive  # isort: skip

VERSIONS = {
    "avalanche": avalanche.__version__,
    "torch": torch.__version__,
    "numpy": np.__version__,
}
LOW = -1e9  # a logit out of the competition


def plain(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


class Heads(MultiTaskModule):
    """A head for each task, in Avalanche's way: the outputs of its classes, the others low."""

    def __init__(self, inputs: int, outputs: int, masks: torch.Tensor):
        super().__init__()
        self.network, self.masks = plain(inputs, outputs), masks

    def adaptation(self, experience):
        super().adaptation(experience)
        self.max_class_label = self.masks.shape[1]

    def forward_single_task(self, x, task_label):
        return self.network(x).masked_fill(~self.masks[task_label], LOW)


class MaskedCrossEntropy(nn.Module):
    """Only classes of the sample's own task compete."""

    def __init__(self, masks: torch.Tensor):
        super().__init__()
        self.rivals = torch.zeros(masks.shape[1], masks.shape[1], dtype=torch.bool)
        for mask in masks:
            self.rivals[mask] = mask

    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits.masked_fill(~self.rivals[labels], LOW), labels)


class SIPlugin(SupervisedPlugin):
    """Synaptic intelligence as van de Ven and Tolias define it; Avalanche's own is off on CPU.

    The gradient is that of the whole loss, and importances may be negative.
    """

    def __init__(self, strength: float):
        super().__init__()
        self.strength, self.importances, self.anchors = strength, None, None

    def before_training_exp(self, strategy, **kwargs):
        self.paths = [torch.zeros_like(p) for p in strategy.model.parameters()]
        self.start = [p.detach().clone() for p in strategy.model.parameters()]

    def before_backward(self, strategy, **kwargs):
        if self.importances is not None:
            parts = zip(self.importances, strategy.model.parameters(), self.anchors, strict=True)
            strategy.loss += self.strength * sum((o * (p - a) ** 2).sum() for o, p, a in parts)

    def before_update(self, strategy, **kwargs):
        self.before = [p.detach().clone() for p in strategy.model.parameters()]

    def after_update(self, strategy, **kwargs):
        parts = zip(self.paths, strategy.model.parameters(), self.before, strict=True)
        for path, p, before in parts:
            path -= p.grad * (p.detach() - before)

    def after_training_exp(self, strategy, **kwargs):
        self.anchors = [p.detach().clone() for p in strategy.model.parameters()]
        new = [
            w / ((a - s) ** 2 + DAMPING)
            for w, a, s in zip(self.paths, self.anchors, self.start, strict=True)
        ]
        old = self.importances or [0.0] * len(new)
        self.importances = [o + n for o, n in zip(old, new, strict=True)]


class Order(SupervisedPlugin):
    """Has a strategy take the batches that are the same for both sides."""

    def __init__(self, epochs: int, seed: int):
        super().__init__()
        self.epochs, self.seed, self.task = epochs, seed, -1

    def before_training_exp(self, strategy, **kwargs):
        self.task += 1
        count = len(strategy.adapted_dataset)
        self.left = batches(count, self.epochs, self.seed, self.task)

    def before_training_epoch(self, strategy, **kwargs):
        strategy.dataloader = torch.utils.data.DataLoader(
            strategy.adapted_dataset,
            batch_sampler=self.left.pop(0).tolist(),
            collate_fn=strategy.adapted_dataset.collate_fn,
        )


class Trainer:
    """Trains one setting by one method, as Avalanche does it."""

    def __init__(self, setting: Setting, method: str):
        self.setting, self.method = setting, method
        torch.set_num_threads(1)

    def train(self, tasks: Tasks, strength: float | None, seed: int, given: bool):
        torch.manual_seed(seed)
        np.random.seed(seed)
        model, network, criterion = self._model(tasks)
        strategy = self._strategy(model, criterion, strength)
        if given and self.method not in REPLAYING:
            strategy.plugins.append(Order(self.setting.epochs, seed))
        # Labels of tasks are for heads: with them Avalanche's joint training balances batches, and
        # its LwF without heads looks at the classes of the first task only.
        datasets = [
            as_dataset(
                torch.tensor(x),
                torch.tensor(y, dtype=torch.int64),
                task_labels=i if isinstance(model, Heads) else 0,
            )
            for i, (x, y) in enumerate(tasks.train)
        ]
        benchmark = with_classes_timeline(with_task_labels(benchmark_from_datasets(train=datasets)))
        stream = benchmark.train_stream
        rows, taken = [], []
        for experience in [list(stream)] if self.method == "joint" else stream:
            taken.append(timed(lambda e=experience: strategy.train(e, eval_streams=[])))
            rows.append(_weights(network))
        share = len(datasets) / len(rows)
        return rows, [tuple(s / share for s in pair) for pair in taken]

    def _model(self, tasks: Tasks):
        inputs, outputs = tasks.weights[0].shape[0], self.setting.outputs
        masks = torch.tensor(
            np.stack([np.isin(np.arange(outputs), classes) for classes in tasks.classes])
        )
        # With a loss that knows the heads, one forward pass does for samples of all tasks. LwF
        # needs the heads in the model; DER++ trains as if there were none.
        heads = self.setting.kind == "task"
        if heads and self.method == "LwF":
            model = Heads(inputs, outputs, masks)
            network, criterion = model.network, nn.CrossEntropyLoss()
        else:
            model = network = plain(inputs, outputs)
            criterion = MaskedCrossEntropy(masks) if heads else nn.CrossEntropyLoss()
        with torch.no_grad():
            for parameter, weight in zip(network.parameters(), tasks.weights, strict=True):
                parameter.copy_(torch.tensor(weight.T))
        return model, network, criterion

    def _strategy(self, model, criterion, strength):
        common = {
            "model": model,
            "optimizer": torch.optim.Adam(model.parameters(), RATE, eps=EPSILON),
            "train_mb_size": BATCH,
            "train_epochs": self.setting.epochs,
            "evaluator": None,
        }
        if self.method == "DER++":
            return DER(**common, mem_size=BUFFER, alpha=strength, beta=BETA)
        if self.method == "joint":
            return JointTraining(**common, criterion=criterion)
        plugins = {
            "naive": lambda: [],
            "replay": lambda: [ReplayPlugin(BUFFER)],
            "EWC": lambda: [EWCPlugin(strength)],
            "EWC online": lambda: [EWCPlugin(strength, mode="online", decay_factor=1.0)],
            # As many old samples in all before the last of five tasks.
            "A-GEM": lambda: [AGEMPlugin(BUFFER // 4, BATCH)],
            "LwF": lambda: [LwFPlugin(strength, TEMPERATURE)],
            "SI": lambda: [SIPlugin(strength)],
        }
        return Naive(**common, criterion=criterion, plugins=plugins[self.method]())


def _weights(network: nn.Module) -> list[np.ndarray]:
    return [copy.deepcopy(p.detach()).numpy().T for p in network.parameters()]
