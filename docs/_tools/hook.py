"""What MkDocs runs while it builds: pages made from the sources, and tables from results.

The pages of the API are made from what the packages export, so that a new name is there by
itself. In any page, `<!-- table: NAME -->` becomes the table of that name of `tables.py`, and
`<!-- pictures: PACKAGE -->` the pictures that `pictures.py` drew of that package's classes.
"""

import ast
import re
import sys
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))

import plots
import tables

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "optimizers",
    "schedules",
    "transforms",
    "callbacks",
    "diagnostics",
    "continual",
    "compression",
    "testing",
)
# Pages that are files of the repository: where their links lead to from the site.
COPIED = {
    "changelog.md": "CHANGELOG.md",
    "quality.md": "benchmarks/QUALITY.md",
    "benchmarks.md": "benchmarks/README.md",
}
LINKS = {
    "(results/optimizer_quality.png)": "(assets/optimizer_quality.png)",
    "(QUALITY.md)": "(quality.md)",
    "(README.md)": "(benchmarks.md)",
}


def source(module: str) -> ast.Module:
    """Returns the parsed file of a module or package."""
    path = ROOT / module.replace(".", "/")
    return ast.parse(
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    )


def summary(thing) -> str:
    """Returns the first line of the docstring of a module, a class or a function."""
    return (ast.get_docstring(thing) or "").partition("\n")[0]


def exported(package: str) -> dict[str, tuple[str, str, str]]:
    """Returns what a package exports, by name: its kind, its summary, and what it is an alias of.

    The kinds are "class", "function", "module" and "alias".
    """
    found = {}
    for node in source(package).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_optkit"):
            for name in [a.name for a in node.names if a.asname == a.name]:
                if (ROOT / node.module.replace(".", "/") / name).is_dir():
                    found[name] = ("module", summary(source(f"{node.module}.{name}")), "")
                    continue
                body = source(node.module).body
                for thing in (n for n in body if getattr(n, "name", None) == name):
                    kind = "class" if isinstance(thing, ast.ClassDef) else "function"
                    found[name] = (kind, summary(thing), "")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found[node.name] = ("function", summary(node), "")
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            found[node.targets[0].id] = ("alias", "", node.value.id)
    return found


def reference(package: str, level: int = 1) -> str:
    """Returns the page of a package: its names in a table, then each in full."""
    path = f"keras_optkit.{package}"
    lines = [f"{'#' * level} {package}", "", summary(source(path)), "", "| | |", "|---|---|"]
    sections = []
    names = exported(path)
    for name, (kind, line, other) in names.items():
        if kind == "module":
            inner = f"{package}.{name}"
            lines.append(f"| [`{name}`](#{inner.replace('.', '')}) | {line} |")
            sections += ["", reference(inner, level + 1)]
        elif kind == "alias":
            lines.append(f"| `{name}` | [`{other}`](#{path}.{other}), by another name |")
        else:
            lines.append(f"| [`{name}`](#{path}.{name}) | {line} |")
            # A module of the same name hides the function from those who only read the source.
            same = (ROOT / path.replace(".", "/") / f"{name}.py").exists()
            sections += [
                f'\n<a id="{path}.{name}"></a>\n' if same else "",
                f"::: {path}.{name}.{name}" if same else f"::: {path}.{name}",
                "    options:",
                f"      heading_level: {level + 1}",
            ]
            sections += ["", picture(package, name, depth=1)]
    return "\n".join(lines + sections)


def picture(package: str, name: str, depth: int) -> str:
    """Returns the picture of a class in Markdown, if there is one, for a page so deep down."""
    file = ROOT / "docs/assets/pictures" / package / f"{name}.svg"
    if not file.exists():
        return ""
    what = "learning rate by step" if package == "schedules" else "path on two functions"
    up = "../" * depth
    return f"![{name}: {what}]({up}assets/pictures/{package}/{name}.svg){{ loading=lazy }}"


def gallery(package: str, depth: int) -> str:
    """Returns the pictures of a package's classes, side by side, each linked to its reference."""
    up = "../" * depth
    cards = [
        f"<figure markdown>\n{shown}\n<figcaption markdown>[`{name}`]"
        f"({up}api/{package}.md#keras_optkit.{package}.{name})</figcaption>\n</figure>"
        for name in exported(f"keras_optkit.{package}")
        if (shown := picture(package, name, depth))
    ]
    return '<div class="gallery" markdown>\n' + "\n".join(cards) + "\n</div>"


def packages() -> str:
    """Returns a table of the packages."""
    rows = [f"| [`{p}`]({p}.md) | {summary(source(f'keras_optkit.{p}'))} |" for p in PACKAGES]
    return "\n".join(["| | |", "|---|---|", *rows])


def on_files(files, config):
    """Adds the pages that are made here."""
    for package in PACKAGES:
        files.append(File.generated(config, f"api/{package}.md", content=reference(package)))
    for page, file in COPIED.items():
        text = (ROOT / file).read_text()
        for link, target in LINKS.items():
            text = text.replace(link, target)
        files.append(File.generated(config, page, content=text))
    image = str(ROOT / "benchmarks/results/optimizer_quality.png")
    files.append(File.generated(config, "assets/optimizer_quality.png", abs_src_path=image))
    files.append(File.generated(config, "assets/update_cost.svg", content=plots.update_cost()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Puts in tables and pictures."""
    depth = page.file.src_uri.count("/")

    known = tables.TABLES | {"packages": packages}

    def table(match):
        if match[1] not in known:
            raise PluginError(f"{page.file.src_uri}: there is no table {match[1]!r}")
        return known[match[1]]()

    markdown = re.sub(r"<!-- table: (.+?) -->", table, markdown)
    return re.sub(r"<!-- pictures: (\w+) -->", lambda m: gallery(m[1], depth), markdown)
