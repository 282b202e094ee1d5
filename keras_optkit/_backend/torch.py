"""torch: everything runs at once, in Python's order."""

import functools

import keras
import torch
from keras.src.backend.torch.core import get_device
from torch import distributed
from torch.backends import cudnn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.weak import WeakIdKeyDictionary


def dense(gradient):
    return gradient.to_dense() if gradient.is_sparse else gradient


def read(variable):
    return variable.value


def known(variable):
    if variable._value is None or torch.compiler.is_compiling():
        return None
    return variable._value.detach().cpu().numpy()


def sum_over_replicas(gradients):
    return gradients


def least_of_replicas(vector):
    return vector


def replica_count():
    return 1


def processes(model):
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gather(array, model):
    row = torch.tensor(array, device=get_device())
    rows = [torch.empty_like(row) for _ in range(distributed.get_world_size())]
    distributed.all_gather(rows, row)
    return torch.stack(rows).cpu().numpy()


def assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        if value is not variable.value:  # `update_each` has written it already
            variable.assign(value)


def keep(variables, masks):
    with torch.no_grad():
        for variable, mask in zip(variables, masks, strict=True):
            value = variable.value
            if value.device.type == "cpu" and not torch.compiler.is_compiling():
                bits = _bits(mask, value.element_size())
                value.view(bits.dtype).bitwise_and_(bits)
            else:
                torch.where(mask, value, value.new_zeros(()), out=value)


INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
BITS = WeakIdKeyDictionary()  # of the masks in use


def _bits(mask, size):
    """Returns integers of `size` bytes, of all bits or none: CPUs read booleans far more slowly."""
    kept = BITS.get(mask)
    if kept is None or kept[0] != mask._version or kept[1].element_size() != size:
        kept = BITS[mask] = mask._version, mask.to(INTEGERS[size]).neg_()
    return kept[1]


def behind(value, *others):
    return value


def cond(predicate, effect, variables):
    if predicate:
        effect()


def fused(function, *arguments):
    return function(*arguments)


def update_each(jobs, elementwise=False):
    if not elementwise:
        return [function(*arguments) for function, arguments in jobs]
    results, groups = [], {}
    for function, arguments in jobs:
        gradient, weight, step, slots, *rest = arguments
        tensors = gradient, weight, *slots
        if all(t.dtype == weight.dtype and t.is_contiguous() for t in tensors):
            flat = [t.view(-1) for t in tensors]
            together = function, weight.dtype, weight.device, id(step), *map(id, rest)
            groups.setdefault(together, ((function, step, rest), []))[1].append(flat)
            results.append((weight, slots))  # into which the new values are written
        else:  # half precision, computed in float32
            results.append(function(*arguments))
    for (function, step, rest), members in groups.values():
        for piece in _pieces(members):
            gradient, weight, *slots = (_joined(parts) for parts in zip(*piece, strict=True))
            weight, slots = function(gradient, weight, step, tuple(slots), *rest)
            lengths = [len(parts[0]) for parts in piece]
            given = {part.data_ptr() for part in piece[0]}  # memory that is about to change
            news = [new.clone() if new.data_ptr() in given else new for new in (weight, *slots)]
            for number, new in enumerate(news, 1):
                old = [parts[number] for parts in piece]
                torch._foreach_copy_(old, new.split(lengths))  # pyright: ignore[reportPrivateImportUsage]
    return results


# Entries for which a rule runs from start to end before it takes the next ones: what passes from
# one operation to the next stays in the cache, and many small weights take one call.
PIECE = 2**16


def _pieces(members):
    """Yields lists of parts of flat tensors that make a piece together."""
    piece, room = [], PIECE
    for tensors in members:
        start, size = 0, len(tensors[0])
        while start < size:
            end = min(size, start + room)
            piece.append([t[start:end] for t in tensors])
            room -= end - start
            start = end
            if not room:
                yield piece
                piece, room = [], PIECE
    if piece:
        yield piece


def _joined(parts):
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def nth_smallest(values, n):
    if torch.compiler.is_compiling():  # where a number cannot be had
        return torch.take(torch.sort(values.flatten()).values, n)
    return torch.kthvalue(values.flatten(), int(n) + 1).values


def seeded_normal(shape, seed, index, step):
    device = get_device()
    generator = torch.Generator(device)
    generator.manual_seed(
        (seed * 1_000_003 + index) * 2_147_483_629 + int(step) & 0x7FFFFFFFFFFFFFFF
    )
    return torch.randn(shape, generator=generator, device=device)


def number(tensor):
    return tensor.item()


def numbers(vector):
    return vector.tolist()


def no_gradient():
    return torch.no_grad()


def train_step(model, data):
    batch, reference = model.split_batch(keras.utils.unpack_x_y_sample_weight(data))

    def differentiate(weights, batch=batch):
        leaves = [w.detach().requires_grad_() for w in weights]
        with torch.enable_grad():
            loss, seen = model.pure_loss(leaves, batch)
            return torch.autograd.grad(loss, leaves, allow_unused=True), seen

    weights = [read(v) for v in model.trainable_variables]
    gradients, (loss, y_pred, *seen) = differentiate(weights)
    with torch.no_grad():
        gradients = model.change_gradients(
            list(gradients), weights, lambda *at: differentiate(*at)[0], reference
        )
        kinds = (model.trainable_variables, model.non_trainable_variables, model.metrics_variables)
        for variables, values in zip(kinds, seen, strict=True):
            for variable, value in zip(variables, values, strict=True):
                if value is not None:
                    variable.assign(value)
        follows = model.follows_updates
        before, pace = ([w.clone() for w in weights], model.pace()) if follows else (None, None)
        model.optimizer.apply(gradients, model.trainable_variables)
        if follows:
            model.after_update(gradients, before, pace)
    x, y, sample_weight = batch
    rows = next(t for t in keras.tree.flatten(x) if t is not None).shape[0]
    model._loss_tracker.update_state(loss, sample_weight=rows)
    return model.compute_metrics(x, y, y_pred, sample_weight)


def random_state():
    return {}


def set_random_state(state):
    pass


def shuffle_arrays(epoch_iterator, key):
    pass


@functools.cache
def compiled(function):
    return torch.no_grad()(function)


def value_and_gradient(function, jit):
    def compute(point, *arguments):
        point = point.detach().requires_grad_()
        value = function(point, *arguments)
        (gradient,) = torch.autograd.grad(value, point, materialize_grads=True)
        return value.detach(), gradient

    return compute


def hessian_product(function, jit):
    def product(point, vector, *arguments):
        point = point.detach().requires_grad_()
        # Neither fused attention nor cuDNN's recurrent kernels can be differentiated twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), cudnn.flags(enabled=False):
            value = function(point, *arguments)
            (gradient,) = torch.autograd.grad(
                value, point, create_graph=True, materialize_grads=True
            )
            slope = torch.sum(gradient * vector)
            if not slope.requires_grad:  # the function is linear
                return torch.zeros_like(point)
            (result,) = torch.autograd.grad(slope, point, materialize_grads=True)
        return result

    return product


def value(function, jit):
    return torch.no_grad()(function)


def gradient_sums(inner, outer, measure, repeats, jit):
    def gradients(values, points, **options):
        return torch.autograd.grad(values, points, materialize_grads=True, **options)

    def compute(points, *arguments):
        points = [p.detach().requires_grad_() for p in points]
        totals = [torch.zeros_like(p) for p in points]
        with torch.enable_grad():
            outputs, extras = inner(points, *arguments)
            leaves = [o.detach().requires_grad_() for o in outputs]
            for r in range(repeats):
                down = gradients(outer(leaves, r, *arguments), leaves)
                parts = gradients(outputs, points, grad_outputs=down, retain_graph=True)
                totals = [t + measure(g) for t, g in zip(totals, parts, strict=True)]
        return totals, [e.detach() for e in extras]

    return compute


def per_sample_sum(function, measure, repeats, together, jit):
    def contributions(weights, row, r, share, arguments):
        row = keras.tree.map_structure(lambda leaf: leaf[None], row)
        gradients = torch.func.grad(function)(weights, row, r, *arguments)
        return [share * measure(g) for g in gradients]

    def compute(weights, rows, shares, *arguments):
        weights = [w.detach() for w in weights]
        totals = [torch.zeros_like(w) for w in weights]
        if together:
            mapped = torch.func.vmap(contributions, (None, 0, None, 0, None))
            for r in range(repeats):
                parts = mapped(weights, rows, r, shares, arguments)
                totals = [t + p.sum(0) for t, p in zip(totals, parts, strict=True)]
            return totals
        for i in range(len(shares)):
            row = keras.tree.map_structure(lambda leaf, i=i: leaf[i : i + 1], rows)
            leaves = [w.requires_grad_() for w in (w.detach() for w in weights)]
            for r in range(repeats):
                with torch.enable_grad():
                    value = function(leaves, row, r, *arguments)
                gradients = torch.autograd.grad(value, leaves, materialize_grads=True)
                for total, g in zip(totals, gradients, strict=True):
                    total += shares[i] * measure(dense(g))
        return totals

    return compute
