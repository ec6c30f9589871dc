"""How each method looks, in figures and on the page alike: one colour and one marker, whoever is beside it."""

from collections.abc import Iterable

KNOWN = ("zero-shot", "coop", "cocoop", "maple", "comma", "lamm", "coop+lamm", "maple+lamm")
# Distinct for the common forms of colour blindness and, beside each other, in lightness; dark enough for small text.
COLOURS = ("#858585", "#bf4a00", "#aa4499", "#2fa7cc", "#8a7a00", "#332288", "#882255", "#117733")
OTHER_COLOURS = ("#cc6677", "#000000", "#44aa99", "#b07d10", "#661100", "#5577cc")
# The same hues, light enough for a dark page.
DARK_COLOURS = ("#a9a9a9", "#ff8a4a", "#e18ad2", "#62c8ea", "#d6c545", "#a79bff", "#ef7fb0", "#58cf86")
DARK_OTHER_COLOURS = ("#ee9aa8", "#f2f2f2", "#74d6c6", "#e3b34a", "#d98a6a", "#8fa9f5")
MARKERS = "xo^sPDv*<>ph8d"  # matplotlib's


def ordered(methods: Iterable[str]) -> list[str]:
    """The known methods, present or not, then the others by name: a method's place here decides its look."""
    return [*KNOWN, *sorted(set(methods) - set(KNOWN))]


def colour(place: int) -> str:
    return _cyclic(place, COLOURS, OTHER_COLOURS)


def dark_colour(place: int) -> str:
    return _cyclic(place, DARK_COLOURS, DARK_OTHER_COLOURS)


def marker(place: int) -> str:
    return MARKERS[place % len(MARKERS)]


def _cyclic(place: int, known: tuple[str, ...], others: tuple[str, ...]) -> str:
    return known[place] if place < len(known) else others[(place - len(known)) % len(others)]
