"""Let more and more weights train."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_optkit import _check, _match, _processes
from keras_optkit._registry import register
from keras_optkit.callbacks._base import Callback
from keras_optkit.callbacks._stages import Stage, as_stages, patterns_of, start_of
from keras_optkit.optimizers._grouped import Grouped


@register
class Unfreeze(Callback):
    """Freezes weights until an epoch of their own, then lets them train, without recompiling.

    For fine-tuning: the new head first, since its first gradients are noise to the layers below;
    then these, from the last to the first. A weight begins to move in the epoch `e` of the
    earliest stage that matches it, and before that rests:

    ```text
    epoch < e:     w and its slots stay, bit for bit: no decay, no momentum, no share in norms
    epoch >= e:    w trains at learning_rate * lr_multiplier, its own steps counted from 1
    ```

    Weights that match no stage are left as they are. The optimizer holds the paces as state, so
    it is told by an assignment at the start of an epoch, its step is compiled once, and a saved
    model goes on with the same weights frozen; a `fit` without this callback does too, and
    `{0: ".*"}` frees all. It goes by the number of the epoch, so give a resumed `fit` its
    `initial_epoch`. The optimizer must be one of this package, perhaps inside of wrappers.

    `layer.trainable` stays as it is. If it was False at `compile`, the weights are unknown to the
    optimizer and cannot be unfrozen. The statistics of BatchNormalization are no weights that
    train: they move in a frozen layer too. To stop them, call the layer with `training=False`
    where the model is built, as in `backbone(x, training=False)`.

    Args:
        stages: Dict from an epoch, counted from 0, to the weights that begin to train there: a
            pattern or a list of them, as in `Group`, or a `Group` with an `lr_multiplier`.
        verbose: 1 to print a line when weights begin to train, 0 to be silent.

    Example:
        >>> unfreeze = keras_optkit.callbacks.Unfreeze({0: "head", 2: ".*"})
        >>> model.compile(keras_optkit.optimizers.RAdam(1e-3), loss="mse")
        >>> history = model.fit(x, y, epochs=3, callbacks=[unfreeze])

    Reference:
        [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146), section 3.3, "Gradual
        unfreezing".
    """

    def __init__(self, stages: Mapping[int, Stage | Sequence[str]], verbose: int = 0):
        super().__init__()
        self.stages = as_stages("stages", stages)
        self.verbose = _check.one_of("verbose", verbose, (0, 1))

    def set_model(self, model):
        super().set_model(model)
        self._ready = False
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and optimizer.built:
            self._prepare()  # before the step of this `fit` is made

    def on_train_begin(self, logs=None):
        if not self._ready:
            self._prepare()
        paths = [_match.path(v) for rule in self._rules for v in rule._trainable_variables]
        for stage in self.stages.values():
            _match.warn_unmatched("Unfreeze", patterns_of(stage), paths)

    def on_epoch_begin(self, epoch, logs=None):
        started = []
        for rule in self._rules:
            paces = keras.ops.convert_to_numpy(rule._pace).tolist()
            for i, variable in enumerate(rule._trainable_variables):
                start, pace = start_of(self.stages, _match.path(variable))
                if start is not None:
                    paces[i] = pace if epoch >= start else 0.0
                    if epoch == start:
                        started.append(_match.path(variable))
            rule.set_paces(paces)
        if started and self.verbose and _processes.leads(self._model):
            print(f"Epoch {epoch + 1}: now training {', '.join(started)}")

    def _prepare(self) -> None:
        """Gives the optimizers variables for the paces, and has the step traced with them."""
        model = self.model
        self._rules = _rules(getattr(model, "optimizer", None))
        if not model.built or not self._rules:
            raise ValueError(
                "Unfreeze needs weights to choose from, and an optimizer: build the model, by a "
                "keras.Input or a call on a batch, and compile it before `fit`. "
                f"{_check.received('model', model)}"
            )
        strategy = getattr(model, "distribute_strategy", None)
        new = [rule for rule in self._rules if rule._pace is None]
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            for rule in new:
                rule.set_paces([1.0] * len(rule._trainable_variables))
        if new and model.train_function is not None:
            model.make_train_function(force=True)
        self._ready = True


def _rules(optimizer: Any) -> list[Any]:
    """Returns the optimizers inside of all wrappers, which keep the paces."""
    if optimizer is None:
        return []
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return _rules(inner)
    if hasattr(optimizer, "optimizers"):  # a MultiOptimizer
        return [rule for part in optimizer.optimizers for rule in _rules(part)]
    if not isinstance(optimizer, Grouped):
        raise ValueError(
            "Unfreeze needs an optimizer of keras_optkit, whose step can leave out single weights "
            "without being compiled anew. Keras' own cannot: even with a gradient of 0, decay and "
            "momentum would move the weight. Use such as keras_optkit.optimizers.RAdam, inside "
            f"of wrappers or not. {_check.received('optimizer', optimizer)}"
        )
    return [optimizer]
