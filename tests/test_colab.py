"""The notebooks of colab: what they name is there, what they keep is small, and they run."""

import ast
import base64
import importlib
import inspect
import io
import pathlib
import runpy
import tomllib

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from PIL import Image

from mav import Cascade

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
over_notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path):
    """What a notebook runs, as one program; lines for the shell and for magic become calls."""
    cells = nbformat.read(path, as_version=4).cells
    cells = [cell.source for cell in cells if cell.cell_type == "code"]
    return ast.parse("\n".join(map(TransformerManager().transform_cell, cells)))


def resolve(node, names):
    """What an expression such as `mav.media.write` stands for, or None if that is not mav's."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value, names)
        is_method = owner is Cascade and node.attr not in Cascade.__dataclass_fields__
        if inspect.ismodule(owner) or is_method:
            return getattr(owner, node.attr)  # AttributeError: the notebook has fallen behind
    return None


def takes(function):
    """Names of the arguments that a function takes; None if it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}


@over_notebooks
def test_what_a_notebook_calls_is_there_and_takes_what_it_is_given(path):
    names = {"cascade": Cascade}
    calls = 0
    for node in ast.walk(code(path)):
        if isinstance(node, ast.Import):
            for found in node.names:
                if found.name.partition(".")[0] == "mav":
                    names[found.asname or found.name] = importlib.import_module(found.name)
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "mav":
            module = importlib.import_module(node.module)
            for found in node.names:
                if not hasattr(module, found.name):
                    importlib.import_module(f"{node.module}.{found.name}")
                names[found.asname or found.name] = getattr(module, found.name)
    for node in ast.walk(code(path)):
        if isinstance(node, ast.Call) and (function := resolve(node.func, names)) is not None:
            calls += 1
            allowed = takes(function)
            for keyword in node.keywords:
                known = allowed is None or keyword.arg is None or keyword.arg in allowed
                assert known, ast.unparse(node)
    assert calls > 3


@over_notebooks
def test_a_notebook_is_opened_and_installed_from_the_address_of_the_project(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    address = project["urls"]["Repository"]
    cells = nbformat.read(path, as_version=4).cells
    shown = address.replace("https://github.com", "https://colab.research.google.com/github")
    assert f"({shown}/blob/main/colab/{path.name})" in cells[0].source
    install = next(cell.source for cell in cells if cell.cell_type == "code")
    assert f"git clone --quiet --depth 1 {address} repository" in install


@over_notebooks
def test_a_notebook_keeps_small_pictures_and_the_words_that_it_printed(path):
    assert path.stat().st_size < 500_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert outputs, f"run python colab/run.py {path.relative_to(ROOT)}"
    for output in outputs:
        if output.output_type == "stream":
            assert output.name == "stdout"
            continue
        for kind, value in output.data.items():
            if kind != "text/plain":
                image = Image.open(io.BytesIO(base64.b64decode(value)))
                assert image.get_format_mimetype() == kind
                assert max(image.size) <= 1024


def test_every_notebook_is_in_the_readme():
    text = (ROOT / "README.md").read_text("utf-8")
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        assert f"(colab/{path.name})" in text


@pytest.mark.slow
@pytest.mark.timeout(1800)
@over_notebooks
def test_a_notebook_runs_from_top_to_bottom(path):
    run = runpy.run_path(str(ROOT / "colab" / "run.py"))
    executed = run["execute"](path)
    kept = nbformat.read(path, as_version=4)
    kinds = lambda notebook: [
        [sorted(o.get("data", ["text"])) for o in c.get("outputs", [])] for c in notebook.cells
    ]
    assert kinds(executed) == kinds(kept)
