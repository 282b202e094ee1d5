"""Versions of a model side by side, judged by what is known of each."""

import gzip
import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit as ko
from tests import nets

report_of = ko.compression.compression_report
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def test_models():
    _, (x, y) = nets.digits()
    model, pruned = nets.mlp(), nets.mlp()
    zeros = ko.compression.prune_once(pruned, 0.75).zeros
    report = report_of({"float": model, "pruned": pruned}, (x, y), repeats=5)
    first, second = report.rows
    assert first.parameters == second.parameters == model.count_params()
    assert first.nonzeros - second.nonzeros == zeros - 106  # biases are 0 anyway
    weights = b"".join(ops.convert_to_numpy(v).tobytes() for v in pruned.weights)
    assert second.gzip_bytes == pytest.approx(
        len(gzip.compress(weights)), rel=0.05
    )  # level 6, not 9
    assert second.gzip_bytes < 0.5 * first.gzip_bytes
    for row, net in zip(report.rows, (model, pruned), strict=True):
        expected = np.mean(net.predict(x, verbose=0).argmax(axis=1) == y)
        assert row.score == pytest.approx(expected)
    lines = str(report).splitlines()
    assert re.match(r" +weights +non-zero +gzip +LiteRT +latency +accuracy$", lines[0])
    if ON_TENSORFLOW:
        pytest.importorskip("ai_edge_litert")
        assert not report.notes
        assert first.litert_bytes > 4 * model.count_params() and first.latency > 0
    else:
        assert (first.litert_bytes, first.latency) == (None, None)
        assert "only TensorFlow converts models" in lines[3]
        assert re.match(r"pruned +6,570 +1,616 .* kB +- +- +\d+\.\d\d%$", lines[2])


@pytest.mark.skipif(not ON_TENSORFLOW, reason="only TensorFlow converts models")
def test_files(tmp_path):
    pytest.importorskip("ai_edge_litert")
    (x, _), (x_test, y_test) = nets.digits()
    model = nets.mlp()
    file = ko.compression.quantize_post_training(model, tmp_path / "int8.tflite", x, "int8")
    report = report_of(
        {"float": model, "path": file.path, "report": file, "bytes": file.path.read_bytes()},
        (x_test, y_test),
        repeats=5,
    )
    one, *others = report.rows
    assert len({(row.parameters, row.nonzeros, row.gzip_bytes, row.score) for row in others}) == 1
    assert others[0].litert_bytes == file.bytes < one.litert_bytes
    assert others[0].score == pytest.approx(one.score, abs=0.02)
    assert others[0].nonzeros <= others[0].parameters <= model.count_params()


@pytest.mark.skipif(not ON_TENSORFLOW, reason="only TensorFlow converts models")
def test_a_model_that_cannot_be_converted_leaves_gaps():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    own = Own()
    own(np.zeros((1, 3), "float32"))
    report = report_of({"own": own}, (np.zeros((4, 3), "float32"), [0, 0, 0, 1]), repeats=1)
    assert report.rows[0].litert_bytes is None
    assert "No LiteRT file of 'own'" in report.notes[0] and "has none" in str(report)


def test_scores():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2, kernel_initializer="ones")(inputs))
    x = np.zeros((4, 3), "float32")

    def mean_error(y, outputs):
        return np.abs(y - outputs).mean()

    report = report_of({"a": model}, (x, np.full((4, 2), 3.0)), mean_error, repeats=1)
    assert report.metric == "mean_error" and report.rows[0].score == 3.0
    assert report_of({"a": model}, (x, []), lambda y, outputs: 2, repeats=1).metric == "score"
    one_hot = np.eye(2)[[0, 0, 1, 1]]
    for labels in (one_hot, [0, 0, 1, 1], np.array([[0], [0], [1], [1]])):
        assert report_of({"a": model}, (x, labels), repeats=1).rows[0].score == 0.5
    with pytest.raises(ValueError, match=r"Give a `metric`.*labels of shape \(3,\)"):
        report_of({"a": model}, (x, [0, 0, 1]), repeats=1)


def test_the_picture():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    model = nets.mlp()
    report = report_of({"float": model, "again": model}, repeats=1)
    axes = report.plot(Figure().add_subplot())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["float", "again"]
    bars = 3 if ON_TENSORFLOW else 1
    assert len(axes.containers) == bars
    assert axes.containers[0][0].get_width() == 100


def test_bad_input():
    with pytest.raises(ValueError, match="must hold a model"):
        report_of({})
    with pytest.raises(TypeError, match="a dict of models"):
        report_of([nets.mlp()])
    with pytest.raises(ValueError, match="not built"):
        report_of({"a": keras.Sequential([layers.Dense(1)])})
    with pytest.raises(TypeError, match=r"`entries\['a'\]` must be a keras"):
        report_of({"a": 3})
    with pytest.raises(TypeError, match=r"pair \(x, y\)"):
        report_of({"a": nets.mlp()}, np.zeros(3))
    with pytest.raises(TypeError, match="`metric` must be a function"):
        report_of({"a": nets.mlp()}, metric="accuracy")

    class Foreign:
        pass

    Foreign.__module__ = "tf_keras.src.engine.training"
    with pytest.raises(TypeError, match="of tf_keras"):
        report_of({"a": Foreign()})
