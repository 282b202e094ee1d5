"""Features of two networks brought to one shape."""

from keras import ops

from keras_optkit import _check

FORMATS = (None, "channels_last", "channels_first")


def pair_up(name: str, value) -> tuple[tuple[str, str], ...]:
    """Returns `value`, a pair of layer names or several, as a tuple of pairs."""
    one = isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str)
    pairs = [value] if one else value
    good = isinstance(pairs, (list, tuple)) and all(
        isinstance(p, (list, tuple)) and len(p) == 2 and all(isinstance(n, str) for n in p)
        for p in pairs
    )
    if not good or not pairs:
        raise TypeError(
            f"`{name}` must be pairs of layer names, each of a layer of the student and one of the "
            f'teacher, as in [("student_layer", "teacher_layer")]. {_check.received(name, value)}'
        )
    return tuple((student, teacher) for student, teacher in pairs)


def channels_last(shape, data_format: str | None):
    """Returns a shape with its channels at the end; only images have them elsewhere."""
    first = data_format == "channels_first" and len(shape) > 3
    return (shape[0], *shape[2:], shape[1]) if first else tuple(shape)


def to_channels_last(feature, data_format: str | None):
    """Returns a feature with its channels at the end."""
    first = data_format == "channels_first" and len(feature.shape) > 3
    return ops.moveaxis(feature, 1, -1) if first else feature


def pooling(teacher, student, what: str) -> tuple[list[int], list[int]]:
    """Returns how far to pool each of two features, along each axis of places.

    Args:
        teacher: The teacher's shape, channels last.
        student: The student's.
        what: Who asks, for errors.

    Raises:
        ValueError: If one size is no multiple of the other, or the ranks differ.
    """
    sizes = list(zip(teacher[1:-1], student[1:-1], strict=False))
    known = [(t, s) for t, s in sizes if t is not None and s is not None]
    if len(teacher) != len(student) or any(t % s and s % t for t, s in known):
        raise ValueError(
            f"{what} compares features of as many axes, whose sizes, but for the channels, agree "
            "after pooling the larger by a whole number. Name another layer. Received: features "
            f"of shape {tuple(teacher)} of the teacher, {tuple(student)} of the student"
        )
    known = [(t, s) if None not in (t, s) else (1, 1) for t, s in sizes]
    return [max(t // s, 1) for t, s in known], [max(s // t, 1) for t, s in known]


def pooled(feature, sizes: list[int]):
    """Returns the means over blocks of places."""
    if all(size == 1 for size in sizes):
        return feature
    sizes_and_strides = tuple(sizes)
    return ops.average_pool(feature, sizes_and_strides, sizes_and_strides, "valid", "channels_last")
