"""docs/reliability.md promises nothing without a test; and no text is ever run as a program."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_test_that_the_promises_name_exists():
    text = (TESTS.parent / "docs/reliability.md").read_text()
    file, named = "", []
    for stem, name in re.findall(r"`?(?:(\w+)\.py)?(?:::(test_\w+))?", text):
        file = stem or file
        named += [(file, name)] if stem or name else []

    assert len(named) > 30
    for stem, name in named:
        assert not name or f"def {name}(" in (TESTS / f"{stem}.py").read_text(), f"{stem}.py::{name}"
        assert (TESTS / f"{stem}.py").exists()


def test_no_command_goes_through_a_shell_and_no_text_is_run_as_a_program():
    for path in (TESTS.parent / "lamm_cl").rglob("*.py"):
        code = path.read_text()
        assert not re.search(r"shell=True|os\.system|os\.popen|(?<![\w.])(eval|exec)\(", code), path
