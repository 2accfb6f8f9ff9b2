"""What the README says that can be checked."""

from __future__ import annotations

from compat import command_list


def test_command_list_is_that_of_the_table() -> None:
    text = command_list.README.read_text()
    assert command_list.replaced(text) == text


def test_the_test_command_leaves_no_folder_out() -> None:
    tests = command_list.README.parent / "tests"
    command = (tests / "run").read_text()
    folders = sorted({path.relative_to(tests).parts[0] for path in tests.rglob("test_*.py")})
    assert [folder for folder in folders if f"tests/{folder}" not in command] == []
    assert command.count("tests/integration ") == command.count("--ignore tests/integration/cluster") == 1
