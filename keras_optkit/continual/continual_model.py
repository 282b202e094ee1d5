"""A model that learns one task after another."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_optkit import _check, _processes
from keras_optkit._registry import register
from keras_optkit.continual._logit_replay import split
from keras_optkit.continual._marks import UNKNOWN, Marks, mark
from keras_optkit.continual._memory import Memory
from keras_optkit.continual._penalty import Measure, Penalty, Step
from keras_optkit.continual.fisher_diagonal import samples
from keras_optkit.continual.replay_buffer import ReplayBuffer
from keras_optkit.continual.replay_dataset import ReplayDataset
from keras_optkit.optimizers._model_wrapper import ModelWrapper

BUFFER_FILE = "replay_buffer.npz"
KINDS_KEY, MARKS_KEY = "penalties", "tasks"


@register
class ContinualModel(ModelWrapper):
    """Trains a model on one task after another, with penalties and replay against forgetting.

    Compile and fit it like the model inside, and call `consolidate` at the end of each task: the
    penalties then take up what the weights are and how much each one matters, and the buffer
    keeps some of the samples. Until the first time they do nothing. What penalties keep are
    non-trainable weights of this model. So training compiles once for all tasks, and a saved
    model goes on in another process bit for bit, buffer included.

    With a buffer, `fit` adds to each batch as many samples from it, so batches are twice as large;
    while it is empty, the new ones again. For another share, or more control, pass `fit` a
    `ReplayDataset`. With `DER` or `DERpp`, `fit` also fills the buffer, and `consolidate` does not,
    unless they are told `fill="consolidate"`.

    Without penalties and buffer it is the naive baseline, that forgets.

    To survive a crash, give each `fit` a `TrainingState` with a directory of its own, and run the
    same script again. Weights then tell, by some rows of the data, in which task they were written.

    The model inside is never changed but by training; `strip()` gives it back. Its own
    regularizers count as ever.

    Penalties with `update="proximal"` act after each update of the optimizer, with its learning
    rate, on whatever it did to the weights.

    Args:
        model: The `keras.Model` to train, built, and without a training step of its own.
        penalties: Such as `EWC`, `SI`, `MAS`, `L2Anchor`, `LwF` or `DER`, one or several; none to
            compare with.
        buffer: A `ReplayBuffer`, or None to replay nothing.
        name: Name of the wrapper.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `model` is not built, or has a training step of its own.

    Example:
        >>> ewc = keras_optkit.continual.EWC(strength=100.0)
        >>> buffer = keras_optkit.continual.ReplayBuffer(100)
        >>> learner = keras_optkit.continual.ContinualModel(model, [ewc], buffer)
        >>> learner.compile("sgd", "mse")
        >>> for task_x, task_y in [(x, y), (x, -y)]:
        ...     history = learner.fit(task_x, task_y)
        ...     learner.consolidate(task_x, task_y)
        >>> plain = learner.strip()
    """

    def __init__(
        self,
        model: keras.Model,
        penalties: Sequence[Penalty] | Penalty = (),
        buffer: ReplayBuffer | None = None,
        name: str | None = None,
    ):
        given = (penalties,) if isinstance(penalties, Penalty) else penalties
        _check.instance("penalties", given, (list, tuple), "a list of penalties such as EWC(1e3)")
        for penalty in given:
            _check.instance("penalties", penalty, Penalty, "a list of penalties such as EWC(1e3)")
        if buffer is not None:
            _check.instance("buffer", buffer, ReplayBuffer, "a ReplayBuffer, or None")
        if sum(penalty.makes_batches for penalty in given) > 1:
            raise ValueError(
                "Only one of `penalties` can be DER or DERpp, since each makes the batches. "
                f"{_check.received('penalties', given)}"
            )
        super().__init__(model, name)
        if not model.built:
            raise ValueError(
                "ContinualModel keeps something for each weight, so `model` must be built: call "
                f"it once, as in `model(x[:1])`, or give it an Input. Received: {model.name!r}, "
                "which has no weights yet"
            )
        self.penalties, self.buffer = tuple(given), buffer
        self._trained_before = False
        self._marks = Marks()
        self._tasks = self._adder("tasks")("done", shape=(), dtype="int32", initializer="zeros")
        guarded = [v for v in model.trainable_variables if not v.overwrite_with_gradient]
        self._memory = Memory(self.penalties, guarded, self._adder, Measure(model, self, buffer))

    @property
    def tasks(self) -> int:
        """Tasks consolidated so far."""
        return int(ops.convert_to_numpy(self._tasks))

    @property
    def strengths(self) -> list[float]:
        """Strengths of the penalties; assign a list to change them, and nothing compiles anew."""
        return [float(ops.convert_to_numpy(s.strength)) for _, s in self._memory.held]

    @strengths.setter
    def strengths(self, values: Sequence[float]) -> None:
        if len(values) != len(self.penalties):
            raise ValueError(
                f"`strengths` must have one number for each of {len(self.penalties)} penalties. "
                f"{_check.received('strengths', values)}"
            )
        values = [_check.in_range("strengths", value, low=0) for value in values]
        for (penalty, state), value in zip(self._memory.held, values, strict=True):
            penalty.strength = value
            state.strength.assign(value)

    def compile(self, optimizer="rmsprop", loss=None, metrics=None, **kwargs):
        """Does what `keras.Model.compile` does; `loss_weights` only by name."""
        self._trained_before = self._trained()
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, batch_size=None, epochs=1, **kwargs):
        """Trains as `keras.Model.fit` does, on samples from the buffer too.

        With a buffer, `x` and `y` are arrays or a `ReplayDataset`, and samples are shuffled by the
        seed of the buffer and the number of updates so far.
        """
        with self._marks.training(self._mark(x, y)):
            given = isinstance(x, ReplayDataset)
            if self.buffer is None or (given and not self._memory.makes_batches):
                return super().fit(x, y, batch_size, epochs, **kwargs)
            return self._fit_mixed(x, y, batch_size, epochs, **kwargs)

    def _fit_mixed(self, x, y, batch_size, epochs, **kwargs):
        if not all(hasattr(leaf, "shape") for leaf in tree.flatten(x)):
            way = ", or `x` a ReplayDataset: `ReplayDataset(x, y, learner.buffer)`"
            way = ", since DER makes batches of its own" if self._memory.makes_batches else way
            raise TypeError(
                f"With a buffer, `x` and `y` must be arrays{way}. Received: x of type "
                f"{type(x).__name__}"
            )
        if kwargs.get("validation_split"):
            raise ValueError(
                "With a buffer, give `validation_data` instead of `validation_split`. Received: "
                f"validation_split={kwargs['validation_split']}"
            )
        settings = {"sample_weight": None, "shuffle": True}
        settings = {key: kwargs.pop(key, default) for key, default in settings.items()}
        data = self._mixed(x, y, batch_size or 32, **settings)
        if self._memory.makes_batches:
            begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: self._memory.begin())
            callbacks: Any = kwargs.get("callbacks")
            if isinstance(callbacks, keras.callbacks.CallbackList):
                callbacks.append(begin)
            else:
                kwargs["callbacks"] = [*tree.flatten(callbacks or []), begin]
        try:
            return super().fit(data, epochs=epochs, shuffle=False, **kwargs)
        finally:
            self._memory.settle()

    def consolidate(self, x: Any = None, y: Any = None, *, pretrained: bool = False) -> None:
        """Ends a task: penalties hold the weights as they are now, as firmly as each matters.

        The buffer, if there is one, is shown the samples. If it raises, nothing has changed.

        Args:
            x: Inputs of the task: an array, a list or dict of arrays; or a dataset with targets.
                `L2Anchor` and `SI` need none.
            y: Targets; only the buffer, `LwF`, and EWC with `labels="empirical"` or
                `MaskedCrossentropy`, need them.
            pretrained: Whether the model was trained for the task before it came here, as for
                `L2Anchor`; else `fit` must have been called.

        Raises:
            ValueError: If nothing was trained yet; if the model is not compiled and a penalty
                needs its loss; if `x` is missing and a penalty needs it; or for the reasons of the
                penalties and of the buffer.
        """
        _check.flag("pretrained", pretrained)
        self._check_ready(x, pretrained)
        if x is not None:
            x, y = samples(x, y, "exact")
        measure = self._memory.measure
        measure.task = self.tasks
        pairs = [
            pair
            for penalty, state in self._memory.held
            for pair in penalty.consolidate(state, measure, x, y)
        ]
        if self.buffer is not None and not self._memory.fills_buffer:
            self.buffer.add(x, y, **self._memory.extras(x))
        for variable, value in pairs:
            # Memory of its own, since JAX donates what it is given.
            variable.assign(np.array(value, keras.backend.standardize_dtype(variable.dtype)))
        self._tasks.assign(self.tasks + 1)
        self._marks.done.append(self._mark(x, y))

    @property
    def losses(self):
        """What Keras adds to the loss: of the model inside, and penalties on its weights."""
        found = super().losses
        return found if self._losses_override else [*found, *self._memory.losses()]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y, remembered = split(y)
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        step = Step(x, y_pred, sample_weight, remembered, training)
        for penalty in self._memory.losses(step):
            loss = loss + ops.cast(self._aggregate_additional_loss(penalty), loss.dtype)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, split(y)[0], y_pred, sample_weight)

    @property
    def follows_updates(self):
        return any(p.update == "proximal" or p.follows_updates for p in self.penalties)

    def after_update(self, gradients, before, pace):
        rate, count, scale = pace
        # An update may be left out, while gradients accumulate or if one is not finite.
        happened = self.pace()[1] - count
        self._memory.pull(ops.cast(rate, "float32") * ops.cast(happened, "float32"))
        trained = self.trainable_variables
        self._memory.follow(self.optimizer, trained, gradients, before, scale)

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        """Loads what `save_weights` wrote, all of it or nothing; the buffer is not in such files.

        Raises:
            ValueError: If it does not fit, as when it was written with other penalties, or if
                `TrainingState` resumes what was written in another task.
        """
        optimizer = getattr(self, "optimizer", None)  # not before `compile`
        variables = [*self.variables, *(optimizer.variables if optimizer else ())]
        before = [np.array(ops.convert_to_numpy(v)) for v in variables]
        try:
            super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        except BaseException:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)  # Keras loads the rest before it raises
            raise

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store[KINDS_KEY] = np.frombuffer(json.dumps(self._kinds()).encode(), "uint8")
        store[MARKS_KEY] = self._marks.state()

    def load_own_variables(self, store):
        if KINDS_KEY in store.keys():  # not in files of older versions
            kinds = json.loads(bytes(np.asarray(store[KINDS_KEY])))
            if kinds != self._kinds():
                raise ValueError(
                    f"The file was written with penalties {kinds}, and this ContinualModel has "
                    f"{self._kinds()}, which keep other things. Make it with the same, in the same "
                    "order, or use keras.saving.load_model on a file that `save` wrote."
                )
        marks = np.asarray(store[MARKS_KEY]) if MARKS_KEY in store.keys() else None
        if marks is not None:
            self._marks.check(marks)
        own = (KINDS_KEY, MARKS_KEY)
        super().load_own_variables({k: store[k] for k in store.keys() if k not in own})
        self._marks.load_state(np.zeros(1 + self.tasks) if marks is None else marks)

    def save_assets(self, dir_path):
        if self.buffer is not None:
            self._memory.settle(training=True)
            self.buffer.save(pathlib.Path(dir_path) / BUFFER_FILE)

    def load_assets(self, dir_path):
        if self.buffer is not None:
            self.buffer.load_state(ReplayBuffer.load(pathlib.Path(dir_path) / BUFFER_FILE).state())

    def _mixed(self, x: Any, y: Any, batch_size: int, **settings: Any) -> ReplayDataset:
        """Returns the batches of `fit` with samples from the buffer among them."""
        buffer: Any = self.buffer
        seed = int(np.random.SeedSequence([buffer.seed, self._updates()]).generate_state(1)[0])
        return self._memory.replay(x, y, batch_size, seed=seed, **settings)

    def _updates(self) -> int:
        """Returns how often the optimizer has updated the weights: never, before `compile`."""
        optimizer = getattr(self, "optimizer", None)
        return 0 if optimizer is None else int(ops.convert_to_numpy(optimizer.iterations))

    def _trained(self) -> bool:
        """Whether a weight may have changed since the model came here."""
        return self._trained_before or self._updates() > 0 or self.tasks > 0

    def _check_ready(self, x: Any, pretrained: bool) -> None:
        if not pretrained and not self._trained():
            raise ValueError(
                "`consolidate` ends a task, and nothing was trained yet: call `learner.compile` "
                "and `learner.fit` first. If the model was trained before it was given to "
                f"{type(self).__name__}, call `learner.consolidate(..., pretrained=True)`."
            )
        for penalty in self.penalties:
            needs = type(penalty).__name__
            if penalty.needs_loss and getattr(self, "loss", None) is None:
                raise ValueError(
                    f"{needs} measures the gradients of the loss, so call "
                    "`learner.compile(optimizer, loss)` before `consolidate`. Received: a "
                    "ContinualModel without a compiled loss"
                )
            if penalty.needs_data and x is None:
                raise ValueError(
                    f"{needs} measures what matters on the data of the task: call "
                    "`learner.consolidate(x, y)` with them. Received: x=None"
                )
        if self.buffer is not None and not self._memory.fills_buffer and x is None:
            raise ValueError(
                "The buffer keeps samples of each task: call `learner.consolidate(x, y)` with them."
                " Received: x=None"
            )

    def _mark(self, x: Any, y: Any) -> int:
        """Returns a number for the data of a task; of several processes only the first saves."""
        alone = _processes.place(self.model)[1] == 1
        return mark(x, y) if alone else UNKNOWN

    def _kinds(self) -> list[str]:
        return [type(penalty).__name__ for penalty in self.penalties]

    def _adder(self, prefix: str):
        """Returns a function that adds a weight under a name that begins so."""

        def add(name: str, **kwargs):
            return self.add_weight(name=f"{prefix}_{name}", trainable=False, **kwargs)

        return add
