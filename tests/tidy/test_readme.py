"""What the README says that can be checked."""

from __future__ import annotations

from compat import command_list


def test_command_list_is_that_of_the_table() -> None:
    text = command_list.README.read_text()
    assert command_list.replaced(text) == text
