"""When to prune, and how much of a weight is then zero."""

from typing import Any

from keras import ops

from keras_optkit import _check
from keras_optkit._config import Configurable


class SparsitySchedule(Configurable):
    """Base of the sparsity schedules: whether masks are due at a step, and the share of zeros.

    Steps count from 1: step `s` comes before gradient `s`, after `s - 1` updates. A subclass
    writes `__call__`, and stores its constructor's arguments under their own names.

    Args:
        begin_step: First step at which masks may be made, at least 0.
        end_step: Last one, at least `begin_step`; or -1, where a schedule allows it, for never.
        frequency: Steps from one making of masks to the next, at least 1.
    """

    begin_step: int
    end_step: int
    frequency: int

    def _take_steps(self, begin_step: Any, end_step: Any, frequency: Any, endless: bool) -> None:
        self.begin_step = _check.integer("begin_step", begin_step, low=0)
        self.end_step = _check.integer("end_step", end_step, low=-1 if endless else 0)
        self.frequency = _check.integer("frequency", frequency, low=1)
        if self.end_step != -1 and self.end_step < self.begin_step:
            raise ValueError(
                "`begin_step` must not lie after `end_step`, or nothing is ever pruned. Received: "
                f"begin_step={begin_step}, end_step={end_step}"
            )
        if self.end_step != -1 and self.last_turn() is None:
            raise ValueError(
                "`end_step` must not lie before the first turn after step 0, at `frequency`, or "
                "nothing is ever pruned; there is no step 0. To prune at once, let "
                f"begin_step=1. Received: begin_step={begin_step}, end_step={end_step}, "
                f"frequency={frequency}"
            )

    def due(self, step: Any) -> Any:
        """Tells whether masks are made before gradient `step`, an int or an integer tensor."""
        turn = (step >= self.begin_step) & ((step - self.begin_step) % self.frequency == 0)
        return turn if self.end_step == -1 else turn & (step <= self.end_step)

    @property
    def first_turn(self) -> int:
        """The first step at which masks are made."""
        return self.begin_step or self.frequency  # there is no step 0

    def last_turn(self, step: int | None = None) -> int | None:
        """Returns the last step, up to `step`, at which masks are made; None if there is none."""
        ends = [end for end in (step, self.end_step) if end is not None and end != -1]
        if not ends or min(ends) < self.first_turn:
            return None
        return min(ends) - (min(ends) - self.first_turn) % self.frequency

    def progress(self, step: Any) -> Any:
        """Returns how far `step` is from `begin_step` to `end_step`, from 0 to 1 in float32."""
        step = ops.convert_to_tensor(step)
        if self.end_step == -1:
            return ops.zeros((), "float32")
        passed = ops.cast(step - self.begin_step, "float32")
        part = ops.clip(passed / max(self.end_step - self.begin_step, 1), 0.0, 1.0)
        return ops.where(step >= self.end_step, 1.0, part)

    def __call__(self, step: Any) -> Any:
        """Returns the share of zeros at `step`, a float32 tensor in [0, 1)."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `__call__(self, step)` and return the share of "
            "zeros to have at `step`."
        )


def share(name: str, value: Any) -> float:
    """Returns `value` if it is a share of weights that can be zero, in [0, 1)."""
    return _check.in_range(name, value, 0, 1, closed="left")
