"""Memory aware synapses."""

from keras import ops, tree

from keras_optkit import _processes
from keras_optkit._registry import register
from keras_optkit.continual._fisher import as_arrays, chosen
from keras_optkit.continual._penalty import Penalty, Update
from keras_optkit.continual._per_sample import PerSample
from keras_optkit.continual.fisher_diagonal import check_options, samples


@register
class MAS(Penalty):
    """Holds each weight as firmly as the outputs of the model depend on it.

    Needs no labels, and no loss, to know what matters: any inputs will do, those of deployment
    too. After each task, with outputs `f`, for `ContinualModel`,

    ```text
    O = O + mean over x of |grad (sum of f(x, w)^2)|
    loss + strength  sum O (w - w*)^2
    ```

    Args:
        strength: Factor of the penalty, 0 or more.
        n_samples: Samples at most to measure importances with; None for all.
        update: `"loss"`, or `"proximal"`, which is stable at any strength; see `EWC`.
        batch_size: Samples to measure at a time, 1 or more.
        seed: Of the choice of samples, 0 or more.

    Example:
        >>> learner = keras_optkit.continual.ContinualModel(
        ...     model, [keras_optkit.continual.MAS(1.0)]
        ... )

    Reference:
        [Aljundi et al., 2018](https://arxiv.org/abs/1711.09601), equations 2 to 4 and section 4.1,
        global version. Its authors' code takes the gradient of a batch's sum, not of each sample.
    """

    factor = 1.0

    def __init__(
        self,
        strength: float,
        n_samples: int | None = None,
        update: Update = "loss",
        batch_size: int = 128,
        seed: int = 0,
    ):
        super().__init__(strength, update)
        check_options("exact", n_samples, batch_size, seed, 0)
        self.n_samples, self.batch_size, self.seed = n_samples, batch_size, seed

    def consolidate(self, state, measure, x, y):
        x, _ = samples(x, y, "exact")
        if "mas" not in measure.cache:
            measure.cache["mas"] = PerSample(measure.model, _squared_length, ops.abs)
        place, processes = _processes.place(measure.model)
        seeds = [self.seed + measure.task, *([place] if place else [])]
        x, _ = chosen(as_arrays(x), None, self.n_samples, seeds, processes)
        new = measure.cache["mas"].mean(x, {}, self.batch_size, lambda done: None)
        new = measure.aligned(new, state)
        total = [f + g for f, g in zip(state.arrays("importance"), new, strict=True)]
        return state.new("importance", total) + state.new("anchor", state.arrays())


def _squared_length(outputs, arrays, r):
    return sum(ops.sum(ops.square(ops.cast(f, "float32"))) for f in tree.flatten(outputs))
