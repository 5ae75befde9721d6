"""Runs notebooks from top to bottom, and keeps the pictures that they made.

    python colab/run.py                        # all, minutes on two cores
    python colab/run.py colab/from_unclip_to_video.ipynb ...

Needs the extra `test`. What has no place in a file is dropped: videos, progress bars, counters.
"""

import pathlib
import sys
import tempfile

import nbformat
from nbclient import NotebookClient

HERE = pathlib.Path(__file__).parent
LIMIT = 1200  # seconds that a cell may take


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook after all its cells, with the outputs that are worth keeping.

    It runs in a folder that is removed, where it finds this checkout as it would its own clone.
    Raises nbclient's CellExecutionError for an error, and ValueError for a warning.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "repository").symlink_to(HERE.parent)
        place = {"metadata": {"path": folder}}
        quiet = ["--Application.log_level=40"]  # of the kernel about itself
        NotebookClient(
            notebook, timeout=LIMIT, kernel_name="python3", extra_arguments=quiet, resources=place
        ).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            said = "".join(o.text for o in cell.outputs if o.get("name") == "stderr")
            if "warning" in said.lower():
                raise ValueError(f"{path.name} warns: {said.strip()}\nin the cell\n{cell.source}")
            cell.outputs = [kept for output in cell.outputs if (kept := clean(output))]
            cell.execution_count = None
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},  # without which ruff passes it over
    }
    return notebook


def clean(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output as it is stored, or None."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    # Beside what can be seen there is text, as "<IPython.core.display.Image object>".
    seen = {kind: value for kind, value in output.data.items() if kind != "text/plain"}
    images = {kind: value for kind, value in seen.items() if kind.startswith("image/")}
    if seen and not images:
        return None
    output.data, output.metadata = images or output.data, {}
    if "execution_count" in output:
        output.execution_count = None
    return output


def main() -> None:
    """Runs those that are named, or all."""
    for path in map(pathlib.Path, sys.argv[1:] or sorted(HERE.glob("*.ipynb"))):
        print(path.name, flush=True)
        nbformat.write(execute(path), path)


if __name__ == "__main__":
    main()
