"""Seeds: one for each purpose, so that a draw for one never shifts another."""

import hashlib


def derive(seed: int, *purpose: object) -> int:
    """An independent seed for each purpose."""
    return int.from_bytes(hashlib.sha256(repr((seed, *purpose)).encode()).digest()[:7], "big")
