"""Models around other models, with a training step of their own."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_optkit import _backend, _check, _config
from keras_optkit.optimizers._slots import read

# What `fit`, `evaluate` and `predict` call, and the wrapper has of its own.
STEPS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


class ModelWrapper(keras.Model):
    """Base of models that train another one by other gradients than those of its loss.

    A subclass writes `change_gradients` or `after_update`, and stores each argument of its
    constructor under its own name. All weights belong to the model inside, under the paths they
    have there; in everything but training the wrapper does what the model does.

    Args:
        model: The `keras.Model` to train, built or not.
        name: Name of the wrapper.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has a training step, or another of the methods in `STEPS`, of its own.
    """

    def __init__(self, model: keras.Model, name: str | None = None):
        wrapper = type(self).__name__
        _check.instance("model", model, keras.Model, "a keras.Model")
        if isinstance(model, ModelWrapper):
            raise ValueError(
                f"{wrapper} cannot wrap a {type(model).__name__}, since each has a training step "
                f"of its own. Wrap the plain model: {wrapper}(model.strip()). "
                f"{_check.received('model', model)}"
            )
        for step in STEPS:
            if getattr(type(model), step) is not getattr(keras.Model, step):
                raise ValueError(
                    f"{wrapper} would never call the `{step}` of {type(model).__name__}, having "
                    "its own. Wrap a model without one, and move what it adds to the loss into "
                    f"`call`, by `self.add_loss(...)`. {_check.received('model', model)}"
                )
        # The model converts its inputs itself; a wrapper of another precision must not.
        super().__init__(name=name, dtype=model.dtype_policy, autocast=False)
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self._call_has_training_arg = model._call_has_training_arg
        if model._parent_path is None:
            model._parent_path = ""  # or weights built in `fit` had the wrapper in their path
        self.model = model
        self.built = model.built

    def split_batch(self, batch: tuple) -> tuple[tuple, tuple | None]:
        """Returns the batch to train on, and one to compare with, or None.

        Loss, metrics and all other state are of the first alone.

        Args:
            batch: `x, y, sample_weight`, as are the two returned; with several replicas, the part
                of this one.
        """
        return batch, None

    def change_gradients(
        self,
        gradients: list,
        weights: list,
        gradients_at: Callable[..., list],
        reference: tuple | None = None,
    ) -> list:
        """Returns the gradients to hand to the optimizer.

        Args:
            gradients: Those of the loss, which is scaled if the optimizer scales it, in the
                order of `trainable_variables`; None for a weight that has none. With several
                replicas, those of this one, which the optimizer will sum.
            weights: Values of the trainable variables.
            gradients_at: Function of other such values, giving the gradients there: for the same
                batch, random numbers and other state, and leaving all of it as it is. It may be
                given another batch after them.
            reference: The other batch that `split_batch` returned.
        """
        return gradients

    @property
    def follows_updates(self) -> bool:
        """Whether `after_update` is to be called, for which old weights are kept in each step."""
        return False

    def after_update(self, gradients: list, before: list, pace: tuple) -> None:
        """Acts on the weights that the optimizer has moved, or on other variables of the wrapper.

        They are written by `_backend.assign`, since several replicas may do so at once.

        Args:
            gradients: Those that the optimizer got.
            before: Values of the trainable variables before it moved them.
            pace: What `pace` returned then.
        """

    def pace(self) -> tuple[Any, Any, Any]:
        """Returns the learning rate of the next update, the updates so far, and the loss scale."""
        optimizer = self.optimizer
        rate, count = read(optimizer.learning_rate), read(optimizer.iterations)
        scale = optimizer.scale_loss(ops.ones((), "float32"))
        # Copies, since on torch a variable is its memory.
        return tuple(ops.copy(ops.convert_to_tensor(value)) for value in (rate, count, scale))

    def strip(self) -> keras.Model:
        """Returns the model inside, as trained so far.

        It is the model that was wrapped, not a copy: ready to predict, save and export, and
        compiled only if it was compiled itself.
        """
        return self.model

    def call(self, inputs, training=None):
        if self._call_has_training_arg:
            return self.model(inputs, training=training)
        return self.model(inputs)

    def train_step(self, *args):
        if not self.trainable_variables:
            return super().train_step(*args)  # which warns
        return _backend.train_step(self, *args)

    def pure_loss(self, weights: list, batch: tuple, state=()) -> tuple[Any, tuple]:
        """Returns the loss to differentiate by `weights`, and what came with it.

        That is the loss unscaled, the predictions, and the new values of the trainable, the
        non-trainable and the metrics' variables, None for one that stays as it is. Nothing is
        assigned.

        Args:
            weights: Values of the trainable variables.
            batch: `x, y, sample_weight`.
            state: Pairs of other variables and the values to give them.
        """
        x, y, sample_weight = batch
        mapping = [*zip(self.trainable_variables, weights, strict=True), *state]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            given = [scope.get_current_value(v) for v in self.trainable_variables]
            y_pred = self(x, training=True) if self._call_has_training_arg else self(x)
            loss = self._compute_loss(x, y, y_pred, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        trainable, non_trainable, metrics = (
            [scope.get_current_value(v) for v in variables]
            for variables in (
                self.trainable_variables,
                self.non_trainable_variables,
                self.metrics_variables,
            )
        )
        # A layer may assign its weights itself, as `SpectralNormalization` does.
        trainable = [None if new is old else new for new, old in zip(trainable, given, strict=True)]
        return scaled, (loss, y_pred, trainable, non_trainable, metrics)

    @property
    def output_names(self):
        """Names that a dictionary of losses may use, if the model inside has any."""
        return self.model.output_names

    @property
    def _default_save_signature(self):  # which `tf.saved_model.save` asks for
        return self.model._default_save_signature

    def export(self, filepath, *args, **kwargs):
        self.model.export(filepath, *args, **kwargs)

    def get_config(self):
        names = _config.parameters(type(self))
        return {name: _config.serialize(getattr(self, name)) for name in names}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**_config.deserialize(config, custom_objects))
