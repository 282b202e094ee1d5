"""Elastic weight consolidation."""

from typing import Literal

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.continual import _quadratic
from keras_optkit.continual._fisher import Fisher
from keras_optkit.continual._penalty import Penalty, Update
from keras_optkit.continual.fisher_diagonal import Labels, check_options, samples


@register
class EWC(Penalty):
    """Holds each weight where it was after earlier tasks, as firmly as it mattered to them.

    It is for `ContinualModel`, which calls `consolidate` at the end of a task. With `F_t` the
    Fisher information of task `t` (see `fisher_diagonal`) and `w_t` the weights it left, what is
    added to the loss of the next tasks is

    ```text
    separate   strength / 2  sum over t of  F_t (w - w_t)^2
    online     strength / 2  F (w - w_T)^2       with F = gamma F + F_T after each task T
    ```

    A sum of quadratics is one quadratic, so `separate` takes no more memory than `online`: `F` is
    the sum, the anchor the mean weighted by it, and a constant keeps the value of the loss. Nothing
    is lost by it.

    Part of the loss, the penalty makes SGD diverge where `learning_rate * strength * F` is above
    2. `update="proximal"` is stable at any strength: after each update of the optimizer,

    ```text
    w = (w + learning_rate strength F w*) / (1 + learning_rate strength F)
    ```

    which, for SGD, minimizes the same sum. The penalty does not show in the loss then. With Adam
    the two differ, as decoupled weight decay and an L2 regularizer do: in the loss, what pulls a
    weight back is divided by the size of its gradients. The proximal form then forgets less for
    most tasks; its good strengths are 30 to 100 times as large.

    EWC alone does not solve class-incremental learning, where the output for old classes is not
    trained any more: add a buffer to the `ContinualModel`.

    Args:
        strength: Factor of the penalty, 0 or more; good values differ by orders of magnitude
            from problem to problem, so try powers of ten.
        mode: `"separate"` or `"online"`.
        gamma: What remains of the older Fisher information at each task if `mode` is `"online"`,
            from 0 to 1.
        labels: Those that `fisher_diagonal` takes: `"exact"`, `"sampled"` or `"empirical"`.
        n_samples: Samples at most to measure the Fisher information with; None for all.
        update: `"loss"` or `"proximal"`.
        batch_size: Samples to measure at a time, 1 or more.
        seed: Of the choice of samples and labels, 0 or more.

    Example:
        >>> ewc = keras_optkit.continual.EWC(strength=1e3)
        >>> learner = keras_optkit.continual.ContinualModel(model, [ewc])

    Reference:
        [Kirkpatrick et al., 2017](https://arxiv.org/abs/1612.00796), equation 3, for `separate`.
        [Schwarz et al., 2018](https://arxiv.org/abs/1805.06370), section 4, for `online`, with the
        Fisher information not normalized.
    """

    needs_loss = True

    def __init__(
        self,
        strength: float,
        mode: Literal["separate", "online"] = "separate",
        gamma: float = 1.0,
        labels: Labels = "exact",
        n_samples: int | None = None,
        update: Update = "loss",
        batch_size: int = 128,
        seed: int = 0,
    ):
        super().__init__(strength, update)
        self.mode = _check.one_of("mode", mode, ("separate", "online"))
        self.gamma = _check.in_range("gamma", gamma, 0, 1)
        check_options(labels, n_samples, batch_size, seed, 0)
        self.labels, self.n_samples = labels, n_samples
        self.batch_size, self.seed = batch_size, seed

    def consolidate(self, state, measure, x, y):
        x, y = samples(x, y, self.labels)
        seed = self.seed + measure.task
        fisher = self._measuring(measure)(x, y, self.n_samples, self.batch_size, seed, verbose=0)
        fisher = measure.aligned(fisher, state)
        old, weights = state.arrays("importance"), state.arrays()
        if self.mode == "online":
            new = [self.gamma * f + g for f, g in zip(old, fisher, strict=True)]
            return state.new("importance", new) + state.new("anchor", weights)
        parts = [
            _quadratic.joined(*part)
            for part in zip(old, state.arrays("anchor"), fisher, weights, strict=True)
        ]
        importances, anchors, constants = map(list, zip(*parts, strict=True))
        constant = float(state.constant.numpy()) + sum(constants)
        return [
            *state.new("importance", importances),
            *state.new("anchor", anchors),
            (state.constant, constant),
        ]

    def _measuring(self, measure) -> Fisher:
        """Returns what is compiled for the loss of the last `compile`, made when first needed."""
        key, loss = ("fisher", self.labels), measure.compiled._compile_loss
        kept, fisher = measure.cache.get(key, (None, None))
        if fisher is None or kept is not loss:
            fisher = Fisher(measure.model, self.labels, measure.compiled)
            measure.cache[key] = loss, fisher
        return fisher
