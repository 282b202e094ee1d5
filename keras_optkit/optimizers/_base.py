"""The one place where an update rule meets Keras variables, dtypes and backends."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule as Schedule

from keras_optkit import _backend, _check
from keras_optkit._config import parameters
from keras_optkit.optimizers import _arguments
from keras_optkit.optimizers._arguments import LearningRate, ScheduleUnit, StateDtype
from keras_optkit.optimizers._encoding import ENCODINGS, PLAIN, Plain, key_of
from keras_optkit.optimizers._grouped import Grouped
from keras_optkit.optimizers._pace import Pace, held
from keras_optkit.optimizers._policies import Policies
from keras_optkit.optimizers._rule import Rule
from keras_optkit.optimizers._slots import copy, read, working_dtype
from keras_optkit.optimizers.group import Group
from keras_optkit.transforms import GlobalNormClip, NormClip, Transform, ValueClip


class Optimizer(Rule, Grouped):
    """Base of the update rules: name your slots, return a direction.

    A subclass lists in `slots` the tensors it keeps for each weight, and writes `direction`,
    a pure function of tensors. This class makes the slots, computes in at least float32,
    writes the results back, and derives `get_config` from the constructor, which must store
    each argument under its own name.

    In a step, the loss scale is divided out, gradients are summed over replicas and accumulated,
    then `gradient_transforms` and Keras' clipping apply, groups and decay, the rule, constraints,
    and averages. All of them count updates; `direction`'s result and decoupled decay move a
    weight as `w = w - learning_rate * (direction + weight_decay * w)`.

    Args:
        learning_rate: Step size: a float of at least 0, a `LearningRateSchedule`, or a callable
            without arguments.
        weight_decay: Decoupled weight decay, times the learning rate per update: a float of at
            least 0, a schedule, or None for none.
        clipnorm: Largest L2 norm of a weight's gradient, after `gradient_transforms`.
        clipvalue: Largest magnitude of a gradient's entries, likewise.
        global_clipnorm: Largest L2 norm of all gradients together, likewise.
        use_ema: Whether to average the weights, and to end `fit` with the average.
        ema_momentum: Share of the old average that an update keeps, in [0, 1].
        ema_overwrite_frequency: Updates after which the weights become their average, or None.
        loss_scale_factor: Factor of the loss, divided out of the gradients again.
        gradient_accumulation_steps: Batches, 2 or more, whose mean gradient makes one update;
            the batches between change nothing but the sum. None makes it one.
        gradient_transforms: `keras_optkit.transforms`, applied to the gradients in this order.
        groups: `Group`s of weights with settings of their own.
        schedule_unit: What schedules count: `"update"`s or, as Keras does, every `"batch"`.
        cautious: Whether to leave out the entries of a direction that point against the gradient,
            and to lengthen the others by as much
            ([Liang et al., 2024](https://arxiv.org/abs/2411.16085), algorithm 1); not the decay.
        state_dtype: What running means of gradients and of their squares are kept in, for weights
            of two axes or more; rules compute in float32 all the same. `"bfloat16"` takes half the
            memory, and rounds by chance, so that means stay right. `"int8"` takes a quarter, a
            byte for each entry and a scale for each 256 of them
            ([Dettmers et al., 2021](https://arxiv.org/abs/2110.02861)), and more time. None for
            float32. Runs repeat bit for bit in any case.
        name: Name of the optimizer.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        weight_decay: float | Schedule | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        gradient_transforms: Sequence[Transform] = (),
        groups: Sequence[Group] = (),
        schedule_unit: ScheduleUnit = "update",
        cautious: bool = False,
        state_dtype: StateDtype | None = None,
        name: str | None = None,
        **unknown: Any,
    ):
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no argument {', '.join(map(repr, unknown))}. It takes "
                f"{', '.join(parameters(type(self)))}."
            )
        super().__init__(
            _arguments.learning_rate_of(learning_rate),
            clipnorm=_arguments.positive("clipnorm", clipnorm),
            clipvalue=_arguments.positive("clipvalue", clipvalue),
            global_clipnorm=_arguments.positive("global_clipnorm", global_clipnorm),
            use_ema=_check.flag("use_ema", use_ema),
            ema_momentum=_check.in_range("ema_momentum", ema_momentum, 0, 1),
            ema_overwrite_frequency=_arguments.count(
                "ema_overwrite_frequency", ema_overwrite_frequency, 1
            ),
            loss_scale_factor=_arguments.positive("loss_scale_factor", loss_scale_factor),
            gradient_accumulation_steps=_arguments.accumulation_steps(gradient_accumulation_steps),
            name=name,
        )
        if weight_decay is not None and not isinstance(weight_decay, Schedule):
            weight_decay = _check.in_range("weight_decay", weight_decay, low=0)
        self.weight_decay = weight_decay
        self.gradient_transforms = _arguments.transforms_of(
            "gradient_transforms", gradient_transforms
        )
        self.groups = _arguments.instances("groups", groups, Group)
        self.schedule_unit = _check.one_of("schedule_unit", schedule_unit, ("update", "batch"))
        self.cautious = _check.flag("cautious", cautious)
        self.state_dtype = _check.one_of("state_dtype", state_dtype, tuple(ENCODINGS))
        self._batches_per_call = 1  # more in a wrapper that accumulates

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        if self.use_ema:
            self._model_variables_moving_average = self._add_slots("average")
        excluded = [Group(self._undecayed, weight_decay=0.0)] if self._undecayed else []
        self._policies = Policies([*self.groups, *excluded], variables)
        for transform in self.gradient_transforms:
            transform.build(variables)
        self._slots = self._make_slots(variables)
        if self.state_dtype and all(kept is PLAIN for slots in self._encodings for kept in slots):
            raise ValueError(
                f"`state_dtype` must be None for {type(self).__name__} and these weights: it keeps "
                "no running mean of the shape of a weight with two axes or more. "
                f"{_check.received('state_dtype', self.state_dtype)}"
            )
        self._scalars = tuple(
            self.add_variable((), keras.initializers.Constant(start), "float32", name=name)
            for name, start in self.scalars.items()
        )
        self._rules = tuple(self.rule_for(v) for v in variables)

    def _make_slots(self, variables) -> tuple[tuple, ...]:
        """Returns the slots of each weight; none where the gradient is the new value."""
        shapes = [
            {} if self._overwrite_variable_with_gradient(v) else dict(self.slot_shapes(v))
            for v in variables
        ]
        pairs = list(zip(variables, shapes, strict=True))
        encodings = [{n: self._encoding(n, v, shape[n]) for n in shape} for v, shape in pairs]
        self._encodings = tuple(tuple(found.values()) for found in encodings)
        slots: list[dict] = [{} for _ in variables]
        for name in dict.fromkeys(name for names in shapes for name in names):
            for i, (variable, shape) in enumerate(pairs):
                if name in shape:
                    slots[i][name] = encodings[i][name].add(self, variable, name, shape[name])
        return tuple(
            tuple(found[name] for name in names) for found, names in zip(slots, shapes, strict=True)
        )

    def _encoding(self, name: str, variable, shape) -> Plain:
        """Returns how a slot is kept."""
        alike = tuple(shape) == tuple(variable.shape)
        if not alike or len(variable.shape) < 2 or not math.prod(variable.shape):
            return PLAIN
        kind = "squares" if name in self.squares else "means" if name in self.means else None
        return ENCODINGS[self.state_dtype].get(kind, PLAIN)

    def _update(self, gradients, variables):
        decay: Any = self.weight_decay
        decay = _scalar(decay(self._clock()) if isinstance(decay, Schedule) else decay)
        rate = ops.cast(self.learning_rate, "float32")
        step = ops.cast(self.iterations + 1, "float32")
        policies = [self._policies.of(self._get_variable_index(v)) for v in variables]
        own = self._paces(variables)
        moving = [n for n, p in enumerate(policies) if not p.frozen and not (own and own[n].rests)]
        gradients, variables = [gradients[n] for n in moving], [variables[n] for n in moving]

        def move(gradients, step, rate, decay, own):
            paces = [Pace(*pair) for pair in own] if own else [Pace(step)] * len(variables)
            gradients = held(gradients, [ops.zeros_like(g) for g in gradients], paces)
            for transform in (*self.gradient_transforms, *self._clips()):
                gradients = transform(gradients, variables, step)
            self._move(gradients, variables, step, rate, decay, paces)

        _backend.fused(move, gradients, step, rate, decay, own and [tuple(own[n]) for n in moving])
        self._count()

    def _move(self, gradients, variables, step, learning_rate, decay, paces):
        """Moves `variables` by gradients that are transformed."""
        indices = [self._get_variable_index(v) for v in variables]
        policies = [self._policies.of(i) for i in indices]
        # One tensor for each setting, by which the backends tell what goes together.
        pairs = zip(policies, paces, strict=True)
        multipliers = [policy.lr_multiplier * pace.factor for policy, pace in pairs]
        keys = [m if isinstance(m, float) else id(m) for m in multipliers]
        rates = {key: learning_rate * m for key, m in zip(keys, multipliers, strict=True)}
        decays = {d: _scalar(d) for d in {p.weight_decay for p in policies}} | {None: decay}
        weights = [read(v) for v in variables]
        slots = [self._decoded(i, w) for i, w in zip(indices, weights, strict=True)]
        factors = {id(pace.step): self.factors(pace.step) for pace in paces}
        shared = self._prepare(gradients, weights, step, slots, learning_rate)
        rules = {rule: functools.partial(_call, rule) for rule in dict.fromkeys(self._rules)}
        jobs = [
            (
                rules[self._rules[i]],
                (g, w, t, s, rates[key], decays[p.weight_decay], *factors[id(t)], *shared),
            )
            for i, g, w, s, p, key, (t, _) in zip(
                indices, gradients, weights, slots, policies, keys, paces, strict=True
            )
        ]
        moved = _backend.update_each(jobs, self.runs_by_entry())
        new = [
            weight if variable.constraint is None else variable.constraint(weight)
            for variable, (weight, _) in zip(variables, moved, strict=True)
        ]
        new = held(new, weights, paces)
        if self.use_ema:
            new = held(self._average(new, indices), weights, paces)
        pairs = [
            pair
            for i, (_, now), kept, pace in zip(indices, moved, slots, paces, strict=True)
            for pair in self._encoded(i, held(now, kept, [pace] * len(kept)))
        ]
        _backend.assign([*variables, *(s for s, _ in pairs)], [*new, *(n for _, n in pairs)])

    def _decoded(self, index: int, weight) -> tuple:
        """Returns the slots of a weight as rules take them."""
        pairs = zip(self._slots[index], self._encodings[index], strict=True)
        return tuple(kept.decoded([read(v) for v in slot], weight) for slot, kept in pairs)

    def _encoded(self, index: int, values) -> list[tuple]:
        """Returns pairs of variables and values to assign, for new slots of a weight."""
        step = ops.cast(read(self.iterations), "int32")
        pairs = []
        for number, value in enumerate(values):
            kept = self._encodings[index][number]
            new = kept.encoded(value, functools.partial(key_of, step, index, number))
            pairs += zip(self._slots[index][number], new, strict=True)
        return pairs

    def _prepare(self, gradients, weights, step, slots, learning_rate) -> tuple:
        """Moves the scalars, and returns what all weights share."""
        if not self._scalars:
            return ()
        scalars = tuple(copy(scalar) for scalar in self._scalars)
        weights = [read(w, working_dtype(w)) for w in weights]
        arguments = (gradients, weights, step, slots, scalars, learning_rate)
        shared, scalars = self.prepare(*arguments)
        _backend.assign(self._scalars, scalars)
        return tuple(shared)

    def _average(self, weights, indices):
        """Updates the averages; returns the weights, or, when it is due, the averages.

        Weights that do not move have averages too, since `fit` ends with them.
        """
        update = read(self.iterations)
        keep = ops.where(update == 0, 0.0, self.ema_momentum)
        moved = dict(zip(indices, weights, strict=True))
        new = {}
        for i, average in enumerate(self._model_variables_moving_average):
            if average is not None:
                weight = moved[i] if i in moved else read(self._trainable_variables[i])
                share = ops.cast(keep, average.dtype)
                new[i] = share * read(average) + (1 - share) * ops.cast(weight, average.dtype)
        averages = [self._model_variables_moving_average[i] for i in new]
        _backend.assign(averages, list(new.values()))
        if not self.ema_overwrite_frequency:
            return weights
        due = (update + 1) % self.ema_overwrite_frequency == 0
        return [ops.where(due, new[i], ops.cast(moved[i], new[i].dtype)) for i in indices]

    def _clips(self) -> list[Transform]:
        """Returns Keras' clipping arguments as transforms, exact and after the all-reduce."""
        limits = (
            (NormClip, self.clipnorm),
            (GlobalNormClip, self.global_clipnorm),
            (ValueClip, self.clipvalue),
        )
        return [clip(limit) for clip, limit in limits if limit]

    def _clock(self):
        """Returns the step that schedules are asked about."""
        if self.schedule_unit == "update":
            return self.iterations
        outside = self._batches_per_call
        return self._iterations if outside == 1 else read(self._iterations) * outside + outside - 1

    def _get_current_learning_rate(self):
        if isinstance(self._learning_rate, Schedule):
            return self._learning_rate(self._clock())
        return super()._get_current_learning_rate()


def _call(rule, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
    """Calls a pure rule with all its tensors in the weight's working dtype."""
    dtype = working_dtype(weight)
    learning_rate = ops.cast(learning_rate, dtype)
    if weight_decay is not None:
        weight_decay = ops.cast(weight_decay, dtype)
    step, weight = ops.cast(step, dtype), ops.cast(weight, dtype)
    shared = tuple(ops.cast(x, dtype) for x in shared)
    return rule(gradient, weight, step, slots, learning_rate, weight_decay, *shared)


def _scalar(weight_decay):
    """Returns a decay as a tensor, so that equal shapes share a kernel; None if there is none."""
    none = weight_decay is None or (isinstance(weight_decay, float) and weight_decay == 0)
    return None if none else ops.cast(weight_decay, "float32")
