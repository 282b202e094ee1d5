"""What peers add to the gradient: by Avalanche's own code, and by formulas of the others."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from forgetting.study import BATCH, DAMPING, SETTINGS, TEMPERATURE, Tasks, path_of
from forgetting.theirs import Trainer, as_dataset, plain

from avalanche.training.plugins import EWCPlugin, SynapticIntelligencePlugin  # isort: skip
from avalanche.training.regularization import LearningWithoutForgetting  # isort: skip

SETTING = SETTINGS["split digits, class"]
BUFFERED = 32  # samples of the first task that DER++ replays
SEEN = (0, 1)  # classes of the first task


def write(folder: Path) -> dict:
    """Writes weights and gradients for `conversions.py`; returns what is a number already."""
    tasks = Tasks.load(path_of(folder, SETTING.name, 0))
    rows, _ = Trainer(SETTING, "naive").train(tasks, None, 0, given=True)
    anchor = rows[0]
    rng = np.random.default_rng(0)
    weights = [w + 0.02 * rng.standard_normal(w.shape).astype("float32") for w in anchor]
    case = Case(anchor, weights, *map(_tensors, tasks.train[:2]))
    gradients = {
        "EWC, Avalanche, batch 1": case.avalanche_ewc(1),
        f"EWC, Avalanche, batch {BATCH}": case.avalanche_ewc(BATCH),
        "EWC, van de Ven": case.van_de_ven_ewc(),
        "EWC, Mammoth": case.mammoth_ewc(),
        "LwF, Avalanche": case.gradient(case.avalanche_lwf),
        "LwF, Mammoth": case.gradient(case.mammoth_lwf),
        "LwF, van de Ven": case.gradient(case.van_de_ven_lwf),
        "DER++, Avalanche and Mammoth": case.gradient(case.der),
    }
    arrays = {f"anchor{i}": w for i, w in enumerate(anchor)}
    arrays |= {f"weight{i}": w for i, w in enumerate(weights)}
    for name, parts in gradients.items():
        arrays |= {f"{name}{i}": part.numpy().T for i, part in enumerate(parts)}
    np.savez(folder / "conversions.npz", **arrays)
    return {"si": _avalanche_si(tasks)}


class Case:
    """A network as it was after the first task, and as it is in the second."""

    def __init__(self, anchor, weights, first, second):
        self.first, self.second = first, second
        self.old, self.now = _network(anchor), _network(weights)

    def gradient(self, loss) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss(), list(self.now.parameters())))

    def avalanche_ewc(self, batch: int) -> list[torch.Tensor]:
        """Returns the gradient of the penalty for `ewc_lambda` 1."""
        x, y = self.first
        optimizer = torch.optim.SGD(self.old.parameters(), 0.1)
        plugin = EWCPlugin(1.0)
        criterion = nn.CrossEntropyLoss()
        dataset = as_dataset(x, y, task_labels=0)
        plugin.importances[0] = plugin.compute_importances(
            self.old, criterion, optimizer, dataset, torch.device("cpu"), batch
        )
        named = self.old.named_parameters()
        plugin.saved_params[0] = {n: p.detach().clone() for n, p in named}
        plugin.importances[0] = {n: i.data for n, i in plugin.importances[0].items()}
        strategy = SimpleNamespace(
            clock=SimpleNamespace(train_exp_counter=1),
            model=self.now,
            device=torch.device("cpu"),
            loss=torch.zeros(()),
        )
        plugin.before_backward(strategy)
        return self.gradient(lambda: strategy.loss)

    def van_de_ven_ewc(self) -> list[torch.Tensor]:
        """For `reg_strength` 1 and `fisher_labels="all"`; its sum is divided by N - 1."""
        x, _ = self.first

        def weighed(x):
            logits = self.old(x)
            for label in range(logits.shape[1]):
                p = logits.softmax(1)[0, label].detach()
                yield p, nn.functional.cross_entropy(logits, torch.tensor([label]))

        fisher = self._fisher(x, weighed, len(x) - 1)
        return self._pulled(fisher, 1.0)

    def mammoth_ewc(self) -> list[torch.Tensor]:
        """For `e_lambda` 1: squared gradients count by the probability of the true label."""
        x, y = self.first
        labels = iter(y)

        def weighed(x):
            loss = nn.functional.cross_entropy(self.old(x), next(labels)[None])
            yield (-loss.detach()).exp(), loss

        return self._pulled(self._fisher(x, weighed, len(x)), 2.0)

    def _fisher(self, x, weighed, count: int) -> list[torch.Tensor]:
        parameters = list(self.old.parameters())
        total = [torch.zeros_like(p) for p in parameters]
        for row in x:
            for share, loss in weighed(row[None]):
                gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
                for t, g in zip(total, gradients, strict=True):
                    t += share * g**2
        return [t / count for t in total]

    def _pulled(self, fisher: list, factor: float) -> list[torch.Tensor]:
        both = zip(fisher, self.now.parameters(), self.old.parameters(), strict=True)
        return [factor * f * (p - a).detach() for f, p, a in both]

    def avalanche_lwf(self):
        """For `alpha` 1."""
        method = LearningWithoutForgetting(1.0, TEMPERATURE)
        method.prev_model, method.prev_classes_by_task = self.old, {0: set(SEEN)}
        x, _ = self.second
        return method(x, self.now(x), self.now)

    def mammoth_lwf(self):
        """For `alpha` 1; the old classes come first."""
        x, _ = self.second
        old, now = (net(x)[:, : len(SEEN)].softmax(1) for net in (self.old, self.now))
        old, now = (p ** (1 / TEMPERATURE) for p in (old, now))
        old, now = (p / p.sum(1, keepdim=True) for p in (old, now))
        return -(old.detach() * now.log()).sum(1).mean()

    def van_de_ven_lwf(self):
        """One context before this one, with a head of its own."""
        x, _ = self.second
        old, now = (net(x)[:, : len(SEEN)] / TEMPERATURE for net in (self.old, self.now))
        return -(old.softmax(1).detach() * now.log_softmax(1)).sum(1).mean()

    def der(self):
        """What is added for `alpha` 1 and `beta` 1/2, with the logits of the old network."""
        x, y = (part[:BUFFERED] for part in self.first)
        logits, now = self.old(x).detach(), self.now(x)
        return nn.functional.mse_loss(now, logits) + nn.functional.cross_entropy(now, y) / 2


def _network(weights: list[np.ndarray]) -> nn.Module:
    network = plain(weights[0].shape[0], weights[2].shape[1])
    with torch.no_grad():
        for parameter, weight in zip(network.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(np.ascontiguousarray(weight.T)))
    return network


def _tensors(data) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = data
    return torch.tensor(x), torch.tensor(y, dtype=torch.int64)


def _avalanche_si(tasks: Tasks) -> float:
    """Returns the largest importance that Avalanche's SI finds in a task on CPU."""

    class Trained(Trainer):
        def _strategy(self, model, criterion, strength):
            strategy = super()._strategy(model, criterion, strength)
            self.plugin = SynapticIntelligencePlugin(1.0, eps=DAMPING)
            strategy.plugins.append(self.plugin)
            return strategy

    trainer = Trained(SETTING, "naive")
    few = Tasks(tasks.train[:1], tasks.test[:1], tasks.classes[:1], tasks.weights)
    trainer.train(few, None, 0)
    return max(float(d.data.abs().max()) for d in trainer.plugin.ewc_data[1].values())
