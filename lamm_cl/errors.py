"""People's mistakes, told in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What was wrong, where, what was expected, the nearest right spelling: one line, exit status 2."""


def did_you_mean(word: object, choices: Iterable[object]) -> str:
    """"; did you mean 'coop'?" for the nearest of the choices, "" if none is near."""
    spelling = {str(choice).lower(): str(choice) for choice in choices}
    near = get_close_matches(str(word).lower(), spelling, n=1)
    return f"; did you mean '{spelling[near[0]]}'?" if near else ""


def shown(value: object) -> str:
    """A value as an error tells it: in one line of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
