"""When validation errors say that generalization is over: Prechelt's criteria, in float64.

[Prechelt, 1998](https://doi.org/10.1007/3-540-49430-8_3), section 2.2. With the validation errors
`va`, the training errors `tr`, after epoch `t`, and strips of `k` epochs:

```text
GL(t) = 100 (va(t) / min_{s <= t} va(s) - 1)                              generalization loss, %
P_k(t) = 1000 (sum(tr(t-k+1 .. t)) / (k min(tr(t-k+1 .. t))) - 1)         progress of training
PQ(t) = GL(t) / P_k(t)                                                    at the ends of strips
UP_s: va(t) > va(t-k) > ... > va(t-s k)                                   at the ends of strips
```

A validation error that is not finite counts as infinite.
"""

import math
from collections.abc import Sequence


class Prechelt:
    """The errors so far, and what the criteria say of them.

    Args:
        alpha: Threshold of `GL` and `PQ`.
        strip: Epochs of a strip.
        rises: Strips for `UP`.
        validation: Errors of the epochs so far.
        training: Likewise; only `PQ` needs them.
    """

    def __init__(
        self,
        alpha: float,
        strip: int,
        rises: float,
        validation: Sequence[float] = (),
        training: Sequence[float] = (),
    ):
        self.alpha, self.strip, self.rises = alpha, strip, rises
        self.validation, self.training = list(validation), list(training)

    def state(self) -> dict[str, list[float]]:
        """Returns the last arguments of the constructor."""
        return {"validation": list(self.validation), "training": list(self.training)}

    def add(self, validation: float, training: float | None) -> None:
        """Takes in the errors of an epoch."""
        self.validation.append(validation)
        self.training.extend([] if training is None else [training])

    def verdict(self, criterion: str) -> str | None:
        """Returns why to stop, or None."""
        if criterion == "UP":
            rises = successive_rises(self.validation, self.strip)
            return f"{rises} rises in a row" if rises >= max(self.rises, 1) else None
        if criterion == "GL":
            value = generalization_loss(self.validation)
        else:
            value = progress_quotient(self.validation, self.training, self.strip)
        return f"{criterion} {value:.6g}" if value > self.alpha else None


def generalization_loss(validation: Sequence[float]) -> float:
    """Returns `GL` after the last of the epochs."""
    errors = [_error(value) for value in validation]
    best = min(errors)
    if errors[-1] == best:
        return 0.0
    return math.inf if best == 0 else 100 * (errors[-1] / best - 1)


def progress_quotient(validation: Sequence[float], training: Sequence[float], strip: int) -> float:
    """Returns `PQ` after the last of the epochs; 0 where no strip ends."""
    loss = generalization_loss(validation)
    if len(training) % strip or not loss:
        return 0.0
    errors = training[-strip:]
    least = min(errors)
    progress = 1000 * (sum(errors) / (strip * least) - 1) if least else math.inf
    return math.inf if progress == 0 else loss / progress


def successive_rises(validation: Sequence[float], strip: int) -> int:
    """Returns the largest `s` for which `UP_s` stops; 0 where no strip ends."""
    if len(validation) % strip:
        return 0
    ends = [_error(value) for value in validation[strip - 1 :: strip]]
    rises = 0
    while rises + 1 < len(ends) and ends[-1 - rises] > ends[-2 - rises]:
        rises += 1
    return rises


def _error(value: float) -> float:
    return value if math.isfinite(value) else math.inf
