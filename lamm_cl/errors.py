"""People's mistakes, told in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What was wrong, where, what was expected, the nearest right spelling: one line, exit status 2."""


def did_you_mean(word: object, choices: Iterable[object]) -> str:
    """"; did you mean 'coop'?" for the nearest of the choices, "" if none is near."""
    near = get_close_matches(str(word).lower(), {str(choice) for choice in choices}, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
