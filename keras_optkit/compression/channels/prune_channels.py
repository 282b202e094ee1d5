"""Smaller layers."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_optkit import _check
from keras_optkit.compression._models import warn_of_steps
from keras_optkit.compression.channels._choice import choose
from keras_optkit.compression.channels._groups import Groups
from keras_optkit.compression.channels._importance import Importance, scores
from keras_optkit.compression.channels._rebuild import Rebuild, compile_like
from keras_optkit.compression.channels._selection import selected
from keras_optkit.compression.channels._subject import subject
from keras_optkit.compression.channels._target import Target, ratio_for
from keras_optkit.compression.channels._trace import Trace
from keras_optkit.compression.channels.channel_plan import ChannelPlan

WHAT = "prune_channels"


def prune_channels(
    model: keras.Model,
    ratio: float | None = None,
    target_params: int | None = None,
    target_flops: int | None = None,
    target_latency: float | None = None,
    importance: Importance = "l2",
    round_to: int = 8,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    data: Any = None,
    return_plan: bool = False,
) -> Any:
    """Removes the channels that matter least, and returns the smaller model.

    Unlike the zeros of `Pruned`, which make a smaller download and nothing faster, channels that
    are gone save time and memory too, on any device and without any help of the runtime: layers
    are made anew with fewer filters, and all weights that belonged to a channel, up to the rows of
    the next kernels, are gone. Train the smaller model for some epochs afterwards.

    The new model gives what the old one would if each kernel that reads a removed channel had
    zeros there. Inputs and outputs of the model stay as they are, and so does what
    `channel_groups` shows as kept. Of the `C` channels of each other group there stay

    ```text
    n = that one of round_to, 2 round_to, ... (less than C), and C, that is closest to (1 - ratio) C
    ```

    so no layer gets less than `min(round_to, C)`; of two equally close, the larger. Those with the
    largest importance stay. A target stands for the smallest ratio, the same for all groups, that
    meets it.

    Args:
        model: A built Functional or Sequential model, which is left as it is.
        ratio: Share of channels to remove in each group, in (0, 1). Give this or one target.
        target_params: Number of weights to have at most, those of BatchNormalization included.
        target_flops: Floating-point operations for one sample to have at most: two for each use of
            a weight of a Dense layer or convolution, plain, depthwise or separable; no others.
        target_latency: Milliseconds that the LiteRT interpreter may need for `data`, on one thread
            of this machine, as the median; with the TensorFlow backend.
        importance: What matters: `"l2"`, the norm of a filter; `"bn_scale"`, the magnitude of the
            BatchNormalization's gamma; `"taylor"`, how much the loss on `data` would change to
            first order, `|sum g w|` over the weights `w` of a filter with their gradients `g`; or a
            function of a layer and of its kernel, a NumPy array with filters along the last axis,
            that returns a number for each filter. Of channels that go together the numbers are
            added up, for `"taylor"` before the magnitude is taken.
        round_to: What numbers of channels should be multiples of, 1 or more; hardware likes 8.
        include: Patterns for the paths of layers whose channels alone to remove, such as
            `"block1/conv"`; by default all that can be removed.
        exclude: Patterns for the paths of layers whose channels stay.
        data: For `"taylor"`: `(x, y)`, `(x, y, sample_weight)` or a finite dataset of batches. For
            `target_latency`: an input, or `(x, y)`, of which the first sample is taken.
        return_plan: Return also what was removed.

    Returns:
        A new model with the same inputs, names of layers and remaining weights, compiled like the
        old one if that was, with a new optimizer and metrics of the same configs; a plain one, so
        without a `train_step` that a subclass has, and with a warning then. With `return_plan`,
        that and a `ChannelPlan`.

    Raises:
        TypeError: If an argument is of the wrong type, or `model` is not a Keras 3 model.
        ValueError: If a number is out of its range; if not exactly one of ratio and targets is
            given; if a target is out of reach; if nothing can be removed; if `include` or
            `exclude` match nothing or `include` what must stay; if the importance needs what is
            not there; or for the models that `channel_groups` refuses.

    Example:
        >>> hidden = keras.layers.Dense(64, activation="relu", name="hidden")
        >>> model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(1)])
        >>> small = keras_optkit.compression.prune_channels(model, 0.5)
        >>> small.get_layer("hidden").units
        32

    Reference:
        [Li et al., 2017](https://arxiv.org/abs/1608.08710), for `"l2"` (they take the l1 norm);
        [Liu et al., 2017](https://arxiv.org/abs/1708.06519), for `"bn_scale"`;
        [Molchanov et al., 2019](https://arxiv.org/abs/1906.10771), equation 8, for `"taylor"`, with
        the magnitude in place of the square and one batch of all `data`; groups after
        [Fang et al., 2023](https://arxiv.org/abs/2301.12900).
    """
    given = {
        "ratio": ratio,
        "target_params": target_params,
        "target_flops": target_flops,
        "target_latency": target_latency,
    }
    stated = {name: value for name, value in given.items() if value is not None}
    if len(stated) != 1:
        raise ValueError(
            "Give exactly one of `ratio`, `target_params`, `target_flops` and `target_latency`. "
            f"Received: {', '.join(f'{n}={v!r}' for n, v in stated.items()) or 'none'}"
        )
    if ratio is not None:
        _check.in_range("ratio", ratio, 0, 1, closed="neither")
    if not callable(importance):
        _check.one_of("importance", importance, ("l2", "bn_scale", "taylor"))
    _check.integer("round_to", round_to, low=1)
    _check.flag("return_plan", return_plan)
    include, exclude = _check.patterns("include", include), _check.patterns("exclude", exclude)
    trace = Trace(subject(model, WHAT), WHAT)
    groups = Groups(trace)
    chosen = selected(groups, include, exclude, round_to)
    points = scores(trace, groups, chosen, importance, data)

    def kept(share: float):
        return choose(chosen, points, share, round_to)

    def mask(share: float):
        return groups.mask(kept(share))

    target = Target(trace, mask, data)
    if ratio is None:
        ((name, value),) = stated.items()
        ratio = ratio_for(target, name, value)
    stay = kept(ratio)
    if all(len(stay[g.public.name]) == g.public.channels for g in chosen):
        raise ValueError(
            f"A ratio of {ratio:g} removes nothing once numbers of channels are rounded to "
            f"multiples of {round_to}. Take a larger `ratio` or a smaller `round_to`. "
            f"{_check.received('ratio', ratio)}"
        )
    warn_of_steps(model, WHAT)
    small = Rebuild(trace, groups.mask(stay))()
    compile_like(model, small)
    if not return_plan:
        return small
    plan = ChannelPlan(
        tuple(group.public for group in groups.all),
        {g.public.name: tuple(range(g.public.channels)) for g in groups.all}
        | {name: tuple(indices.tolist()) for name, indices in stay.items()},
        (target.params(0.0), target.params(ratio)),
        target.both_flops(ratio),
        target.measured,
    )
    return small, plan
