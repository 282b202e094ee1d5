"""What the site shows is so: its code runs, its tables are the measured ones, its links lead on."""

import ast
import functools
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import keras
import pytest

import keras_optkit as ko

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```", re.S | re.M)

# What TensorFlow Addons 0.23 exports, by the heading of the table that has it.
ADDONS = {
    "Optimizers": "AdaBelief AdamW AveragedOptimizerWrapper COCOB ConditionalGradient "
    "DecoupledWeightDecayExtension KerasLegacyOptimizer LAMB LazyAdam Lookahead MovingAverage "
    "MultiOptimizer NovoGrad ProximalAdagrad RectifiedAdam SGDW SWA Yogi "
    "extend_with_decoupled_weight_decay",
    "Schedules": "CyclicalLearningRate ExponentialCyclicalLearningRate "
    "Triangular2CyclicalLearningRate TriangularCyclicalLearningRate",
    "Callbacks": "AverageModelCheckpoint TQDMProgressBar TimeStopping",
}
TFMOT = {"Pruning": "sparsity", "Quantization": "quantization", "Clustering": "clustering"}


@pytest.fixture(scope="module")
def quiet():
    """Lets training be silent, as nobody reads it here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fit", "evaluate", "predict"):
            method = functools.partialmethod(getattr(keras.Model, name), verbose=0)
            patch.setattr(keras.Model, name, method)
        yield


def blocks(page):
    """Returns the Python blocks of a page, each behind as many empty lines as are above it."""
    text = (DOCS / page).read_text()
    return [
        "\n" * text[: match.start(2)].count("\n") + re.sub(f"(?m)^{match[1]}", "", match[2])
        for match in BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_page(page, quiet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)


@pytest.mark.heavy
def test_the_optimizer_of_the_page_passes_its_checks(quiet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks("extending.md"):
        exec(compile(block, "extending.md", "exec"), names)
    names["test_signum"]()


def porting(page, heading):
    """Returns the rows of a porting table: names there, and the line here or None."""
    text = (DOCS / "guides" / page).read_text()
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.S | re.M)[1]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", section, re.M)[1:]
    return [(re.findall(r"`(\w+)`", old), new) for old, new in rows]


@pytest.mark.parametrize(
    ("page", "heading"),
    [*(("from-addons.md", h) for h in ADDONS), *(("from-tfmot.md", h) for h in TFMOT)],
)
def test_porting_lines_run(page, heading):
    for old, new in porting(page, heading):
        assert old, f"no name left of {new}"
        if new == "none":
            continue
        head = keras.layers.Dense(4, name="head")
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), head])
        model.compile("adam", "mse")
        code = re.fullmatch(r"`(.*)`", new)[1]
        assert eval(code, {"keras": keras, "ko": ko, "model": model}) is not None, code


def test_addons_is_ported_whole():
    for heading, names in ADDONS.items():
        assert {n for old, _ in porting("from-addons.md", heading) for n in old} == {*names.split()}


def test_tfmot_is_ported_whole():
    spec = importlib.util.find_spec("tensorflow_model_optimization")
    if spec is None:
        pytest.skip("TF-MOT is not installed, so there is no list to compare with")
    api = Path(spec.origin).parent / "python/core/api"
    for heading, package in TFMOT.items():
        source = ast.parse((api / package / "keras/__init__.py").read_text())
        imports = [node for node in source.body if isinstance(node, ast.ImportFrom)]
        names = {a.name for node in imports if node.module != "__future__" for a in node.names}
        names -= {"clusterable_layer"}  # a module whose one class is there too
        here = {name for old, _ in porting("from-tfmot.md", heading) for name in old}
        assert here == names


def test_every_name_in_the_text_exists():
    missing = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", (DOCS / page).read_text(), flags=re.S)
        for code in re.findall(r"`([^`\n]+)`", text):
            for name in re.findall(r"\b(?:ko|keras)(?:\.\w+)+", code):
                thing = {"ko": ko, "keras": keras}[name.split(".")[0]]
                for part in name.split(".")[1:]:
                    thing = getattr(thing, part, None)
                if thing is None:
                    missing.append(f"{page}: {name}")
    if not hasattr(keras.optimizers, "MultiOptimizer"):  # before Keras 3.15
        missing = [line for line in missing if "MultiOptimizer" not in line]
    assert not missing


def test_every_optimizer_and_schedule_has_a_picture():
    made = {p.stem for p in (DOCS / "assets/pictures").rglob("*.svg")}
    bases = {"Optimizer", "Wrapper", "Schedule", "Group", "OptimizeResult"}
    classes = {
        name
        for package in (ko.optimizers, ko.schedules)
        for name, thing in vars(package).items()
        if inspect.isclass(thing)
    }
    assert made == classes - bases | {"minimize"}


def test_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import optimizer_step
    from quality import report

    results = ROOT / "benchmarks/results"
    readme = (ROOT / "benchmarks/README.md").read_text()
    for backend in ("jax", "tensorflow", "torch"):
        rows = json.loads((results / f"optimizer_step_{backend}.json").read_text())
        assert optimizer_step.table(rows).strip() in readme, backend
    study = json.loads((results / "optimizer_quality.json").read_text())
    assert report.table(study["results"]) in (ROOT / "benchmarks/QUALITY.md").read_text()


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found.get("id"), found.get("name")}
        for key in ("href", "src"):
            if key in found and tag != "base":
                self.links.append((tag, found[key]))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Builds the site, where MkDocs is installed."""
    needed = ("mkdocs", "material", "mkdocstrings", "matplotlib")
    if not all(map(importlib.util.find_spec, needed)):
        pytest.skip("MkDocs is not installed: `make docs` installs it")
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(build, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_links_lead_somewhere(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 25
    dead = []
    for path, page in pages.items():
        for tag, link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                assert tag == "a", f"{path} fetches {link}"
            if parts.scheme or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = pages.get(target)
            fragment = unquote(parts.fragment)
            if not target.exists() or (there and fragment and fragment not in there.anchors):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert not dead, dead
