"""SOAP."""

import math
from collections.abc import Sequence
from typing import Unpack

from keras import ops

from keras_optkit import _check, _match
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._matrices import as_matrix, is_projection, matrix_shape
from keras_optkit.optimizers._moments import bias, mean


@register
class SOAP(Optimizer):
    """Adam in the directions along which a layer's gradients really vary.

    Adam treats each weight by itself, so it depends on the axes it happens to be given. SOAP
    keeps the correlations of a matrix's rows and of its columns, as Shampoo does, and runs Adam
    in their eigenvectors. It takes fewer steps than AdamW and a larger one: two matrix products
    a side, and a QR decomposition now and then. For the gradient `G` of a matrix,
    `t = 1, 2, ...`, and hats for division by `1 - beta^t`:

    ```text
    t = 1:   L, R as below;  P, Q = eigenvectors of L, R                    (w stays)
    t > 1:   M = beta_1 M + (1 - beta_1) G
             V = beta_2 V + (1 - beta_2) (P^T G Q)^2
             w = w - learning_rate * (P (P^T M_hat Q / (sqrt(V_hat) + epsilon)) Q^T
                                      + weight_decay w)
             L = beta_3 L + (1 - beta_3) G G^T,    R = beta_3 R + (1 - beta_3) G^T G
             every precondition_every steps:  P = QR(L P),  Q = QR(R Q)     (the factor Q of QR)
    ```

    where the hats count the steps from the second on. Vectors train by Adam, from the first
    step. A convolution's kernel is flattened to a matrix of its last axis by all others; so are
    the kernels of `MultiHeadAttention`, between their inputs and outputs.

    Args:
        learning_rate: Step size: a float, a `LearningRateSchedule` or a callable.
        beta_1: Decay per step of the mean of gradients, in [0, 1).
        beta_2: Decay per step of the mean of squares, in [0, 1).
        beta_3: Decay per step of the correlations, in [0, 1); None for `beta_2`.
        epsilon: Added to `sqrt(V_hat)`, so in units of the gradient; above 0.
        precondition_every: Updates between renewals of the eigenvectors, at least 1.
        max_dimension: A side longer than this keeps its axes, at least 1: its correlations need
            memory in its square. With both sides longer a matrix trains by Adam.
        exclude: Patterns, as in `Group`, of matrices to train by Adam, such as embeddings.
        **kwargs: Those of `Optimizer`; `weight_decay` is decoupled.

    Example:
        >>> model.compile(optimizer=keras_optkit.optimizers.SOAP(0.003), loss="mse")

    Reference:
        [Vyas et al., 2024](https://arxiv.org/abs/2409.11321), algorithms 3 and 4. As in its
        authors' code, the first step finds the eigenvectors and moves nothing; that code also
        reorders the directions by their size, which changes no step. Decay acts in the first
        step too.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.003,
        beta_1: float = 0.95,
        beta_2: float = 0.95,
        beta_3: float | None = None,
        epsilon: float = 1e-8,
        precondition_every: int = 10,
        max_dimension: int = 2048,
        exclude: str | Sequence[str] = ("(reverse_)?embeddings", "bias"),
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="left")
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.beta_3 = (
            None if beta_3 is None else _check.in_range("beta_3", beta_3, 0, 1, closed="left")
        )
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")
        self.precondition_every = _check.integer("precondition_every", precondition_every, low=1)
        self.max_dimension = _check.integer("max_dimension", max_dimension, low=1)
        self.exclude = _check.patterns("exclude", exclude)

    def slot_shapes(self, variable):
        sides = self._sides(variable)
        shapes = {"momentum": variable.shape, "velocity": variable.shape}
        for name, size in sides.items():
            shapes |= {f"{name}_correlation": (size, size), f"{name}_basis": (size, size)}
        return shapes

    def rule_for(self, variable):
        if not self._sides(variable):
            return self.update
        return self.update_projection if is_projection(variable) else self.update_matrix

    def _sides(self, variable) -> dict[str, int]:
        """Returns the lengths of the sides that get a basis of their own."""
        excluded = _match.matches(self.exclude, _match.path(variable))
        if len(variable.shape) < 2 or math.prod(variable.shape) == 0 or excluded:
            return {}
        sizes = matrix_shape(variable.shape, is_projection(variable))
        sides = {"row": sizes[0], "column": sizes[1]}
        return {name: size for name, size in sides.items() if size <= self.max_dimension}

    def direction(self, gradient, weight, step, slots):
        return self._adam(gradient, gradient, step, slots, lambda tensor: tensor)

    def _adam(self, gradient, turned, step, slots, turn):
        """Adam with the first moments in the given axes, the second ones in the turned."""
        momentum, velocity = slots
        momentum = mean(momentum, gradient, self.beta_1)
        velocity = mean(velocity, ops.square(turned), self.beta_2)
        m_hat = turn(momentum) / bias(self.beta_1, step)
        v_hat = velocity / bias(self.beta_2, step)
        return m_hat / (ops.sqrt(v_hat) + self.epsilon), (momentum, velocity)

    def update_matrix(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        """The rule for kernels whose last axis is the outputs."""
        move, slots = self._by_soap(gradient, step, slots, projection=False)
        return self._moved(move, gradient, weight, learning_rate, weight_decay), slots

    def update_projection(
        self, gradient, weight, step, slots, learning_rate, weight_decay, *shared
    ):
        """The rule for kernels whose first axis is the inputs."""
        move, slots = self._by_soap(gradient, step, slots, projection=True)
        return self._moved(move, gradient, weight, learning_rate, weight_decay), slots

    def _moved(self, direction, gradient, weight, learning_rate, weight_decay):
        direction = self.careful(direction, gradient)
        if weight_decay is not None:
            direction = direction + weight_decay * weight
        return weight - learning_rate * direction

    def _by_soap(self, gradient, step, slots, projection):
        shape, matrix = gradient.shape, as_matrix(gradient, projection)
        moments = [ops.reshape(slot, matrix.shape) for slot in slots[:2]]
        row, column = self._split(slots[2:], matrix.shape)
        # Not `step == 1`: a weight may get its first gradient later.
        first = ops.sum(ops.abs(slots[2])) == 0

        def turn(tensor, back=False):
            if row:
                tensor = ops.matmul(row[1] if back else ops.transpose(row[1]), tensor)
            if column:
                tensor = ops.matmul(tensor, ops.transpose(column[1]) if back else column[1])
            return tensor

        count = ops.maximum(step - 1, 1)
        direction, new = self._adam(matrix, turn(matrix), count, moments, turn)
        direction = ops.where(first, 0.0, turn(direction, back=True))
        moments = [ops.where(first, old, now) for old, now in zip(moments, new, strict=True)]
        moments = [ops.reshape(moment, shape) for moment in moments]
        sides = []
        if row:
            sides += self._renewed(row, ops.matmul(matrix, ops.transpose(matrix)), step, first)
        if column:
            sides += self._renewed(column, ops.matmul(ops.transpose(matrix), matrix), step, first)
        return ops.reshape(direction, shape), (*moments, *sides)

    def _split(self, slots, shape):
        """Returns the correlations and the basis of the rows and of the columns, or None."""
        pairs = [slots[i : i + 2] for i in range(0, len(slots), 2)]
        return [pairs.pop(0) if size <= self.max_dimension else None for size in shape]

    def _renewed(self, side, gram, step, first):
        """Returns the correlations with those of this step, and the basis, renewed if due."""
        correlation, basis = side
        beta = self.beta_2 if self.beta_3 is None else self.beta_3
        correlation = mean(correlation, gram, beta)
        due = ops.cast(step, "int32") % self.precondition_every == 0
        basis = ops.cond(
            first,
            lambda: ops.linalg.eigh(correlation)[1],
            lambda: ops.cond(
                due, lambda: ops.linalg.qr(ops.matmul(correlation, basis))[0], lambda: basis
            ),
        )
        return [correlation, basis]
