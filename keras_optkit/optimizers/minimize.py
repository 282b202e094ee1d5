"""Full-batch training to the bottom, by methods with a line search."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Literal

import keras

from keras_optkit import _check
from keras_optkit.optimizers._descent import Descent, Point, Stop
from keras_optkit.optimizers._objective import Objective
from keras_optkit.optimizers._problem import check_data, check_model, check_start

Method = Literal["lbfgs", "cg", "gd"]


@dataclasses.dataclass(repr=False)
class OptimizeResult:
    """What `minimize` did, and where it ended.

    Args:
        loss: Loss at the weights the model has now, regularization included.
        initial_loss: Loss at the weights it had before.
        gradient_norm: Largest component of the gradient, in absolute value, at these weights.
        iterations: Number of line searches that ended.
        evaluations: Number of times the loss and its gradient were computed.
        seconds: Wall time, with tracing and compiling.
        converged: Whether this is a minimum as far as `tolerance` or rounding errors tell.
        message: Why it ended.
        history: The loss before the first and after each iteration.
    """

    loss: float
    initial_loss: float
    gradient_norm: float
    iterations: int
    evaluations: int
    seconds: float
    converged: bool
    message: str
    history: list[float]

    def __repr__(self):
        state = "converged" if self.converged else "not converged"
        return (
            f"OptimizeResult({state}: {self.message}; loss {self.initial_loss:.6g} -> "
            f"{self.loss:.6g}, gradient_norm {self.gradient_norm:.2g}, "
            f"{self.iterations} iterations, {self.evaluations} evaluations, {self.seconds:.1f} s)"
        )


def minimize(
    model: keras.Model,
    x: Any,
    y: Any = None,
    method: Method = "lbfgs",
    *,
    loss: Any = None,
    sample_weight: Any = None,
    batch_size: int | None = None,
    training: bool = False,
    max_iterations: int = 1000,
    max_seconds: float | None = None,
    tolerance: float = 1e-7,
    history: int = 10,
    callback: Callable[[OptimizeResult], Any] | None = None,
    verbose: int = 1,
) -> OptimizeResult:
    """Trains a model on all data at once, down to a minimum of its loss.

    For small models and smooth losses (physics-informed networks, regression, calibration,
    fitting a last layer), where a fit to many digits counts and all data can be seen in every
    step. There is no learning rate: a line search finds the length of each step. It is the wrong
    tool for noisy losses, and a poor one for losses with kinks, such as those of relu networks.

    `"lbfgs"` is the one to begin with. `"cg"` keeps three vectors where L-BFGS keeps `2 history`,
    and `"gd"` is the yardstick:

    ```text
    lbfgs   p = -H g               H from the last `history` changes of w and g
    cg      p = -g + beta p        beta = max(0, g . (g - g_before) / (g_before . g_before))
    gd      p = -g
    w = w + a p    L(w + a p) <= L + c_1 a g . p    |g(w + a p) . p| <= c_2 |g . p|
    ```

    The loss is that of `model.compile`, or `loss`, with regularization. Trainable weights move
    and nothing else does: moving statistics, seeds, metrics and frozen layers stay. The model ends
    at the best weights seen, also when an exception or Ctrl-C ends the run. Vectors stay on the
    device; the line search on the host reads three numbers per evaluation. A loss in float32 tells
    the place of its minimum to three or four digits only, so where it changes by less than ten
    units in the last place, or than the rounding errors measured where the search gets stuck, the
    changes are taken from the gradients, which tell all of them.

    Args:
        model: A built model. Its optimizer is not used, so `loss` can replace `compile`.
        x: Inputs: an array, or a list or dict of them, as in `fit`.
        y: Targets in the same form, or None if the loss needs none.
        method: `"lbfgs"`, `"cg"` or `"gd"`.
        loss: A loss, its name, or a function of `y_true` and `y_pred`, in place of the compiled
            one; penalties of the model are added to it.
        sample_weight: One weight per sample, as in `fit`.
        batch_size: Samples to compute at a time, if all of them do not fit into memory; the result
            is that of all at once. Needs a loss that is a mean over samples.
        training: Run layers as in training. As `False`, BatchNormalization uses its moving
            statistics, and Dropout does nothing.
        max_iterations: Number of iterations at most.
        max_seconds: Wall time at most, with tracing and compiling; an evaluation is not cut.
        tolerance: Converged when no component of the gradient is larger; 0 or more.
        history: Number of steps that L-BFGS remembers; 1 or more.
        callback: Called after each iteration with the `OptimizeResult` so far, while the model has
            the weights of that iteration; what it returns ends the run if true.
        verbose: 1 for a progress bar, 0 for silence.

    Example:
        >>> model.compile(loss="mse")
        >>> result = keras_optkit.optimizers.minimize(model, x, y, verbose=0)
        >>> result.converged
        True

    Reference:
        [Nocedal & Wright, 2006](https://doi.org/10.1007/978-0-387-40065-5), algorithm 7.5
        (L-BFGS; the scale of `H` is equation 7.20), equations 5.44 and 5.45 (Polak-Ribière+, with
        `p = -g` where the slope would be above `-0.01 |g|^2`), algorithms 3.5 and 3.6 (strong Wolfe
        conditions; `c_1` is 1e-4, `c_2` 0.9 for L-BFGS and 0.4 otherwise). The first step has
        length 1. A line search that fails in float32 starts the method anew for as long as that
        lowers the loss by a hundredth; a trial that is not finite counts as one uphill.
    """
    began = time.monotonic()
    _check.one_of("method", method, ("lbfgs", "cg", "gd"))
    _check.flag("training", training)
    _check.integer("max_iterations", max_iterations, low=1)
    _check.integer("history", history, low=1)
    _check.in_range("tolerance", tolerance, low=0)
    if batch_size is not None:
        _check.integer("batch_size", batch_size, low=1)
    if max_seconds is not None:
        _check.in_range("max_seconds", max_seconds, low=0, closed="right")
    if callback is not None and not callable(callback):
        raise TypeError(f"`callback` must be callable. {_check.received('callback', callback)}")
    _check.one_of("verbose", verbose, (0, 1))
    check_model(model, loss)
    check_data(x, y, sample_weight)

    objective = Objective(model, x, y, sample_weight, loss, batch_size, training)
    start = objective.start()
    value, gradient, slope, norm = objective(start, start)
    check_start(objective, value, slope + norm, objective(start, start)[0])
    first = Point(start, value, gradient, norm, value)

    def result(descent: Descent, point: Point, stop: Stop) -> OptimizeResult:
        evaluations, seconds = descent.evaluations + 2, time.monotonic() - began
        return OptimizeResult(
            point.loss, first.loss, point.norm, descent.iterations, evaluations, seconds,
            stop.converged, str(stop), descent.losses,
        )  # fmt: skip

    shown = ["loss", "gradient_norm"]
    bar = keras.utils.Progbar(max_iterations, stateful_metrics=shown, unit_name="iteration")

    def accepted(descent: Descent) -> None:
        if verbose:
            values = [("loss", descent.point.loss), ("gradient_norm", descent.point.norm)]
            bar.update(descent.iterations, values, finalize=False)
        if callback is not None:
            objective.write(descent.point.x)
            if callback(result(descent, descent.point, Stop("running"))):
                raise Stop("the callback ended it", descent.point.norm <= tolerance)

    deadline = math.inf if max_seconds is None else began + max_seconds
    descent = Descent(objective, first, tolerance, max_iterations, deadline, accepted)
    try:
        stop = descent.run(method, history)
    finally:
        objective.write(descent.best.x)
    done = result(descent, descent.best, stop)
    if verbose:
        values = [("loss", done.loss), ("gradient_norm", done.gradient_norm)]
        bar.update(descent.iterations, values, finalize=True)
    return done
