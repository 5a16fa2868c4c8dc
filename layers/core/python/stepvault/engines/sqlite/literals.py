"""Values as SQL literals that every version of SQLite reads back bit by bit."""

import math
from typing import Literal

Encoding = Literal["UTF-8", "UTF-16le", "UTF-16be"]

#: Python's names of SQLite's encodings.
CODECS = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}
#: SQLite puts U+FFFD in place of these when it turns UTF-8 into UTF-16.
_REPLACED = ("\ufffe", "\uffff")
#: By places, the power of ten and how far to shift its dividend for a quotient of 64 bits or more.
_DIVISORS = [(10**places, 65 + (10**places).bit_length()) for places in range(15)]
_POWER = 49  # 2**49 is the greatest power of two with no more than fifteen digits


def real(value: float) -> str:
    """Return a literal for a number that is not NaN (SQLite stores none).

    Older versions of SQLite (3.40) read some decimals as a neighbour of the nearest double. A
    decimal is written only if every version reads it exactly; otherwise a quotient or product of
    numbers that every version reads exactly, computed without rounding.
    """
    if math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    decimal = repr(value)
    return decimal if _is_read_exactly(decimal) else _by_powers_of_two(value)


def _is_read_exactly(decimal: str) -> bool:
    """Tell whether the decimal is exact however SQLite computes it: as digits / 10**places.

    With up to fifteen digits, both numbers are doubles, so that one division rounds right. Older
    versions divide in 80-bit floats and round the quotient a second time: that goes wrong only if
    the first rounding ends halfway between two doubles, which takes four places or more.
    """
    if len(decimal) > 16 or "e" in decimal:  # fifteen digits and a point
        return False
    places = len(decimal) - decimal.index(".") - 1
    if places <= 3:
        return True
    divisor, shift = _DIVISORS[places]
    quotient = (abs(int(decimal.replace(".", ""))) << shift) // divisor
    beyond_double = quotient >> (quotient.bit_length() - 64) & 0x7FF  # 64 bits less the first 53
    return beyond_double not in (0x3FF, 0x400)


def _by_powers_of_two(value: float) -> str:
    numerator, denominator = value.as_integer_ratio()
    if denominator == 1:
        operator, exponent = "*", max(0, abs(numerator).bit_length() - 53)
        numerator >>= exponent
    else:
        operator, exponent = "/", denominator.bit_length() - 1
    powers = [_POWER] * (exponent // _POWER) + [exponent % _POWER]
    return operator.join(f"{n}.0" for n in (numerator, *(2**power for power in powers if power)))


def text(stored: bytes, encoding: Encoding) -> str:
    """Return a literal on one line for a text's bytes in the database's encoding."""
    try:
        characters = stored.decode(CODECS[encoding])
    except UnicodeDecodeError:
        return _from_bytes(stored)
    if encoding != "UTF-8" and any(c in characters for c in _REPLACED):
        return _from_bytes(stored)
    if "\n" not in characters and "\r" not in characters and "\0" not in characters:
        return string(characters)
    if "\0" in characters or "\\n" in characters or "\\r" in characters:
        return _from_bytes(stored)
    escaped = string(characters.replace("\n", "\\n").replace("\r", "\\r"))
    return f"replace(replace({escaped}, '\\n', char(10)), '\\r', char(13))"


def _from_bytes(stored: bytes) -> str:
    return f"CAST(X'{stored.hex()}' AS TEXT)"


def string(characters: str) -> str:
    """Return characters as a string in quotation marks."""
    return "'" + characters.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a name in quotation marks."""
    return '"' + name.replace('"', '""') + '"'
