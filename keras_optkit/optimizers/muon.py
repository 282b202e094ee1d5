"""Muon."""

import math
from collections.abc import Sequence
from typing import Literal, Unpack

from keras import ops

from keras_optkit import _check, _match
from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._matrices import as_matrix, is_projection
from keras_optkit.optimizers._moments import adam, mean, norm

EXCLUDE = (
    *("(reverse_)?embeddings", "head", "logits", "predictions"),
    *("bias", "depthwise_kernel", "depthwise_conv.*"),
)
COEFFICIENTS = (3.4445, -4.775, 2.0315)


@register
class Muon(Optimizer):
    """Momentum whose step on a weight matrix has equal size in all directions.

    A gradient of a matrix is often large in a few directions only. Muon takes all the singular
    values of the momentum to about 1, by a few matrix products. The weights inside a network
    are matrices; it trains the others, vectors, embeddings and the head, by AdamW. With
    gradient `G` of a matrix, and `n` rows (inputs) and `m` columns (outputs):

    ```text
    B = momentum B + (1 - momentum) G
    X = momentum B + (1 - momentum) G  (nesterov),  or B;      X = X / (|X| + epsilon)
    X = a X + (b X X^T + c (X X^T)^2) X                        newton_schulz_steps times
    w = w - learning_rate * (scale X + weight_decay w)
    scale = 0.2 sqrt(max(n, m))  ("match_rms_adamw"),  or sqrt(max(1, m / n))  ("original")
    ```

    A convolution's kernel is flattened to a matrix of its last axis by all others; so are the
    kernels of `MultiHeadAttention`, between their inputs and outputs.

    Args:
        learning_rate: Step size: a float, a `LearningRateSchedule` or a callable. As for AdamW
            with `"match_rms_adamw"`; about 0.02 with `"original"`.
        momentum: Decay per step of the mean of gradients, in [0, 1).
        nesterov: Whether to look a step of momentum ahead.
        newton_schulz_steps: How many iterations take the singular values to 1, at least 1.
        coefficients: `a, b, c`: these take singular values to between 0.7 and 1.2.
        scale: How a step's size follows from the matrix's: by `"match_rms_adamw"` its entries
            are as large as AdamW's, so one learning rate does for all; `"original"` is the
            authors'.
        exclude: Patterns, as in `Group`, of matrices to train by AdamW: embeddings and the
            output layer should be, so name yours here if it is not called head, logits or
            predictions.
        adamw_multiplier: Factor of the learning rate for what AdamW trains, 0 or more.
        beta_1: AdamW's decay per step of the mean of gradients, in [0, 1).
        beta_2: AdamW's decay per step of the mean of squared gradients, in [0, 1).
        epsilon: Added to norms here and to `sqrt(v_hat)` in AdamW; above 0.
        **kwargs: Those of `Optimizer`; `weight_decay` is decoupled.

    Raises:
        ValueError: In the first step, if there is no matrix to train.

    Example:
        >>> optimizer = keras_optkit.optimizers.Muon(1e-3, weight_decay=0.1, exclude="dense_1")
        >>> network = [keras.layers.Dense(8, "relu"), keras.layers.Dense(1, name="dense_1")]
        >>> model = keras.Sequential([keras.layers.Input((4,)), *network])
        >>> model.compile(optimizer=optimizer, loss="mse")

    Reference:
        [Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/);
        [Liu et al., 2025](https://arxiv.org/abs/2502.16982), equation 4, for `"match_rms_adamw"`.
        `torch.optim.Muon` iterates in bfloat16 and wants `m` by `n`; Keras' `Muon` takes no
        convolutions.
    """

    slots = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        momentum: float = 0.95,
        nesterov: bool = True,
        newton_schulz_steps: int = 5,
        coefficients: Sequence[float] = COEFFICIENTS,
        scale: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        exclude: str | Sequence[str] = EXCLUDE,
        adamw_multiplier: float = 1.0,
        beta_1: float = 0.9,
        beta_2: float = 0.95,
        epsilon: float = 1e-7,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.momentum = _check.in_range("momentum", momentum, 0, 1, closed="left")
        self.nesterov = _check.flag("nesterov", nesterov)
        self.newton_schulz_steps = _check.integer("newton_schulz_steps", newton_schulz_steps, 1)
        _check.instance("coefficients", coefficients, (list, tuple), "three numbers")
        self.coefficients = tuple(
            _check.in_range(f"coefficients[{i}]", c) for i, c in enumerate(coefficients)
        )
        if len(self.coefficients) != 3:
            raise ValueError(
                f"`coefficients` must be three numbers. "
                f"{_check.received('coefficients', coefficients)}"
            )
        self.scale = _check.one_of("scale", scale, ("match_rms_adamw", "original"))
        self.exclude = _check.patterns("exclude", exclude)
        self.adamw_multiplier = _check.in_range("adamw_multiplier", adamw_multiplier, low=0)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="left")
        self.beta_2 = _check.in_range("beta_2", beta_2, 0, 1, closed="left")
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")

    def build(self, variables):
        if not self.built:
            paths = [_match.path(v) for v in variables]
            if self.exclude != EXCLUDE:
                _match.warn_unmatched("Muon", self.exclude, paths)
            if not any(self._is_hidden_matrix(v) for v in variables):
                raise ValueError(
                    "Muon trains matrices, and there is none among the weights: all are vectors "
                    "or excluded. Use AdamW for this model, or change `exclude`. "
                    f"{_check.received('exclude', self.exclude)}, weights {', '.join(paths[:20])}"
                )
        super().build(variables)

    def _is_hidden_matrix(self, variable) -> bool:
        excluded = _match.matches(self.exclude, _match.path(variable))
        return len(variable.shape) >= 2 and math.prod(variable.shape) > 0 and not excluded

    def slot_shapes(self, variable):
        names = ("momentum",) if self._is_hidden_matrix(variable) else self.slots
        return dict.fromkeys(names, variable.shape)

    def rule_for(self, variable):
        if not self._is_hidden_matrix(variable):
            return self.update_by_adamw
        return self.update_projection if is_projection(variable) else self.update_matrix

    def update_matrix(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        """The rule for kernels whose last axis is the outputs."""
        return self._by_muon(gradient, weight, slots, learning_rate, weight_decay, False)

    def update_projection(
        self, gradient, weight, step, slots, learning_rate, weight_decay, *shared
    ):
        """The rule for kernels whose first axis is the inputs."""
        return self._by_muon(gradient, weight, slots, learning_rate, weight_decay, True)

    def _by_muon(self, gradient, weight, slots, learning_rate, weight_decay, projection):
        momentum = mean(slots[0], gradient, self.momentum)
        ahead = mean(momentum, gradient, self.momentum) if self.nesterov else momentum
        direction = self.orthogonalized(as_matrix(ahead, projection))
        rows, columns = direction.shape
        if self.scale == "original":
            direction = math.sqrt(max(1, columns / rows)) * direction
        else:
            direction = 0.2 * math.sqrt(max(rows, columns)) * direction
        direction = self.careful(ops.reshape(direction, weight.shape), gradient)
        if weight_decay is not None:
            direction = direction + weight_decay * weight
        return weight - learning_rate * direction, (momentum,)

    def update_by_adamw(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        """The rule for all that is no hidden matrix."""
        rate = self.adamw_multiplier * learning_rate
        return self.update(gradient, weight, step, slots, rate, weight_decay)

    def direction(self, gradient, weight, step, slots):
        return adam(gradient, slots, step, self.beta_1, self.beta_2, self.epsilon)

    def orthogonalized(self, matrix):
        """Returns a matrix with the singular vectors of `matrix` and singular values near 1."""
        a, b, c = self.coefficients
        tall = matrix.shape[0] > matrix.shape[1]
        x = ops.transpose(matrix) if tall else matrix  # the smaller Gram matrix
        x = x / (norm(x) + self.epsilon)
        for _ in range(self.newton_schulz_steps):
            gram = ops.matmul(x, ops.transpose(x))
            x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
        return ops.transpose(x) if tall else x
