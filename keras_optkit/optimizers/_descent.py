"""From one line search to the next, down to a minimum or a limit."""

import math
import time
from statistics import median_low
from typing import Any, NamedTuple

from keras_optkit.optimizers._directions import LBFGS, ConjugateGradients, Steepest
from keras_optkit.optimizers._line_search import Trial, line_search


class Stop(Exception):
    """Ends a descent."""

    def __init__(self, message: str, converged: bool = False):
        super().__init__(message)
        self.converged = converged


class Point(NamedTuple):
    """A place, with the loss and its gradient there; the vectors are on the device."""

    x: Any
    loss: float
    gradient: Any
    norm: float  # largest component of the gradient, without its sign
    exact: float  # the loss, its changes free of rounding errors


class Look(NamedTuple):
    """What gradients foretell of a trial, and what the loss did."""

    slope: float
    curvature: float
    change: float


class Descent:
    """A run of a method from `start`: counts, limits, and the best point so far."""

    def __init__(self, objective, start: Point, tolerance, max_iterations, deadline, accepted):
        self.objective, self.tolerance, self.accepted = objective, tolerance, accepted
        self.max_iterations, self.deadline = max_iterations, deadline
        self.point = self.best = start
        self.losses, self.iterations, self.evaluations = [start.loss], 0, 0
        self._moved = 1.0  # length of the last step; of the first one nothing is known
        self._noise = 0.0  # how far the loss may be off, beyond its own last digits

    def run(self, method: str, history: int) -> Stop:
        """Follows `method` to its end, and returns why it ended."""
        rules = {"lbfgs": lambda: LBFGS(history), "cg": ConjugateGradients, "gd": Steepest}
        rule = rules[method]()
        try:
            self._stop_if_flat()
            while True:
                iterations, loss = self.iterations, self.point.exact
                self._descend(rule)
                # Stuck. What the rule remembers of the loss may be rounding errors only: begin
                # anew, for as long as that helps.
                fallen, size = loss - self.point.exact, abs(self.point.loss)
                reckoned = max(self._noise, self.objective.epsilon * size)
                self._noise = self._measured_noise()
                least = max(0.01 * size, self._noise)
                helped = self.iterations > iterations and fallen >= least
                if not helped and not self._noise > 2 * reckoned:
                    return self._stuck()
        except Stop as stop:
            return stop

    def _descend(self, rule):
        direction = rule.start(self.point.gradient)
        slope, length = self.objective.slope_and_length(self.point.gradient, direction)
        step = self._moved / length
        while self._search(direction, slope, step, rule.c_2):
            self._moved = self._step * length
            before, taken = self._before, direction
            direction = rule.next(self.point, before, taken)
            slope, length = self.objective.slope_and_length(self.point.gradient, direction)
            if not slope < 0:
                return
            # Equation 3.60 of Nocedal & Wright (2006) where the rule knows no scale either.
            guess = 2.02 * (self.point.exact - before.exact) / slope
            step = 1.0 if isinstance(rule, LBFGS) or not guess > 0 else guess

    def _search(self, direction, slope, step, c_2) -> bool:
        """Goes to a lower point on the line if there is, and tells whether the search went well."""
        here, self._before = self.point, self.point
        self._looks: list[Look] = []
        self._finite = True
        seen: dict[float, Point] = {}

        def at(step):
            seen[step], end = self._look(here, direction, slope, step)
            return seen[step].exact, end

        found, well = line_search(at, Trial(0.0, here.exact, slope), step, 1e-4, c_2)
        if found.step == 0:
            return False
        self.point, self._step = seen[found.step], found.step
        if self.point.exact <= self.best.exact:
            self.best = self.point
        self.iterations += 1
        self.losses.append(self.point.loss)
        self.accepted(self)
        self._stop_if_flat()
        if self.iterations >= self.max_iterations:
            raise Stop("`max_iterations` are done")
        return well

    def _look(self, here, direction, slope, step):
        x = self.objective.move(here.x, direction, step)
        loss, gradient, end, norm = self._evaluate(x, direction)
        if not math.isfinite(loss + end + norm):
            # The line reflected, which makes the search go back to half of its step.
            self._finite = False
            return Point(x, loss, gradient, norm, here.exact - step * slope), -slope
        foretold, change = step * (slope + end) / 2, loss - here.loss
        self._looks.append(Look(step * slope, step * (end - slope), change))
        # Where the loss changes by its last digits, its gradients tell more about the change.
        noise = max(10 * self.objective.epsilon * abs(here.loss), 2 * self._noise)
        if max(abs(change), abs(foretold - change)) <= noise:
            change = foretold
        point = Point(x, loss, gradient, norm, here.exact + change)
        if point.exact < self.best.exact:
            self.best = point
        return point, end

    def _evaluate(self, x, direction):
        if time.monotonic() > self.deadline:
            raise Stop("`max_seconds` have passed")
        self.evaluations += 1
        return self.objective(x, direction)

    def _measured_noise(self) -> float:
        """Returns how far the loss is off, as seen where weights change by their last digits.

        A loss that is small beside what it is made of has fewer right digits than others.
        """
        here, noise = self.point, 0.0
        for step in (self.objective.epsilon, 2 * self.objective.epsilon):
            around = [self.objective.move(here.x, here.x, side * step) for side in (1, -1)]
            losses = [self._evaluate(x, here.x)[0] for x in around]
            noise = max(noise, abs(sum(losses) - 2 * here.loss))  # whatever the slope
        return noise if math.isfinite(noise) else 0.0

    def _stop_if_flat(self):
        if self.point.norm <= self.tolerance:
            self.best = self.point
            raise Stop("the gradient is within `tolerance`", converged=True)

    def _stuck(self) -> Stop:
        if not self._looks:
            return Stop("the loss or its gradient is not finite near this point")
        # What a step down the slope can gain, against how far the loss is off where next to
        # nothing can change.
        gains = [look.slope**2 / (2 * look.curvature) for look in self._looks if look.curvature > 0]
        smallest = min(self._looks, key=lambda look: abs(look.slope))
        least = 4 * self.objective.epsilon * abs(self.point.loss)
        noise = max(least, abs(smallest.change), self._noise)
        if gains and median_low(gains) <= 10 * noise:
            return Stop("the loss falls no further than its rounding errors", converged=True)
        return Stop(
            "no lower loss along the gradient: it may not be that of the loss, as with "
            "`stop_gradient`, or the loss may have a kink here, as with relu or an L1 penalty"
        )
