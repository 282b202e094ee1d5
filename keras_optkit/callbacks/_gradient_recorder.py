"""What the gradient monitor makes of its measurements."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from keras_optkit import _check
from keras_optkit.callbacks._flags import Watch
from keras_optkit.callbacks._noise import noise_scale
from keras_optkit.callbacks._quantities import EDGES
from keras_optkit.callbacks._recorder import Recorder

Measure = Literal["cosine", "zeros", "histogram"]
MEASURES = {"cosine": ("cosine",), "zeros": ("zero_share", "non_finite_share"), "histogram": ()}


class GradientRecorder(Recorder):
    """Base of `GradientMonitor`: what is known of gradients, but no measuring."""

    vanishing: float
    exploding: float
    patience: int
    measure: Sequence[Measure]
    edges = EDGES
    _suffix = "gradients"
    _histogram = ("gradient_log10", tuple(np.log10(np.append(EDGES, 10 * EDGES[-1]))))

    @property
    def columns(self) -> tuple[str, ...]:
        more = (name for kind in MEASURES if kind in self.measure for name in MEASURES[kind])
        return ("gradient_norm", "weight_norm", "update_ratio", *more)

    @property
    def gradient_norms(self) -> np.ndarray:
        return self.column("gradient_norm")

    @property
    def weight_norms(self) -> np.ndarray:
        return self.column("weight_norm")

    @property
    def update_ratios(self) -> np.ndarray:
        return self.column("update_ratio")

    @property
    def histograms(self) -> np.ndarray:
        shape = (len(self._records.histograms), len(self.layers), len(EDGES) + 1)
        return np.reshape(self._records.histograms, shape)

    def noise_scale(self, last: int | None = None, layer: str | None = None) -> float:
        """Returns the simple gradient noise scale, in units of the batch of an update.

        Batches far below this size average out noise with every example; of batches far above
        it, more examples are a waste. Where `g` and `g'` are gradients of one batch each, at the
        same weights, `g g'` has the expectation `|G|^2` of the true gradient and `|g - g'|^2 / 2`
        that of the trace of its covariance over batches, so, with means over the measurements:

        ```text
        noise_scale = mean((|g|^2 + |g'|^2) / 2 - g g') / mean(g g')
        ```

        Each mean is unbiased, their ratio is not: a few dozen pairs are needed. The weights move
        between measurements, which makes the value too large, least so with `every=1`; batches
        that share no example of a small data set do as well. Infinite if there is nothing but
        noise, NaN before the second measurement of a `fit`. Times the number of examples per
        update, it is the batch size itself.

        Args:
            last: How many measurements to look back; by default at all there are.
            layer: One of `layers`; by default all of them together.

        Reference:
            [McCandlish et al., 2018](https://arxiv.org/abs/1812.06162), equation 2.9, `B_simple`,
            by the estimates of appendix A.1 for batches of the size of one and of two updates.
        """
        if "cosine" not in self.measure:
            raise ValueError(
                "`noise_scale` compares gradients with the last ones, which this monitor did not "
                f'keep. Make it with measure=["cosine"]. Received: measure={self.measure}'
            )
        start = 0 if last is None else -_check.integer("last", last, low=1)
        layers = self.layers if layer is None else [_check.one_of("layer", layer, self.layers)]
        chosen = [self.layers.index(name) for name in layers]
        norms = self.gradient_norms[:, chosen]
        cosines = self.column("cosine")[:, chosen]
        if start:
            cosines = np.where(
                np.arange(len(norms))[:, None] >= len(norms) + start, cosines, np.nan
            )
        return noise_scale(norms, cosines)

    def _end_epoch(self) -> dict[str, float]:
        norms = self.gradient_norms[self._since :]
        means = super()._end_epoch()
        if len(norms):
            means["gradient_norm"] = float(np.sqrt(np.square(norms).sum(axis=1)).mean())
        return means

    def _new_watch(self) -> Watch:
        return Watch(self.vanishing, self.exploding, self.patience)
