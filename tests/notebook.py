"""The notebook of docs/: its cells run one after another in one process, as in a notebook.

    python tests/notebook.py --write     in a new folder, and keep what the cells print as their outputs
"""

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def run(code: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs of a cell: what it printed, and the value of its last expression."""
    tree, last = ast.parse(code), None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
    printed, found = io.StringIO(), []
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        value = eval(compile(last, "cell", "eval"), names) if last else None
    if text := printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_png_"):
            data = {"image/png": base64.b64encode(value._repr_png_()).decode(), "text/plain": ["a figure"]}
        found.append({"output_type": "execute_result", "metadata": {}, "execution_count": None, "data": data})
    return found


def write() -> None:
    book, names, count = json.loads(NOTEBOOK.read_text()), {"__name__": "notebook"}, 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["XDG_CACHE_HOME"] = folder
        for cell in book["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                cell |= {"execution_count": count, "metadata": {}, "outputs": run("".join(cell["source"]), names)}
                for output in cell["outputs"]:
                    if "execution_count" in output:
                        output["execution_count"] = count
    NOTEBOOK.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
