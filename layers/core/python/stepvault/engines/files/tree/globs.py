"""Path patterns with gitignore's meaning, over names of any bytes.

https://git-scm.com/docs/gitignore: the last pattern that matches decides, ``!`` takes back, a
pattern with a slash before its end is anchored at the root, one that ends in a slash means
directories only, ``**`` crosses slashes. Like git, ``?`` and ``[]`` match one byte.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_CLASSES = {
    "alnum": r"0-9A-Za-z", "alpha": r"A-Za-z", "blank": r" \t", "cntrl": r"\x00-\x1f\x7f",
    "digit": r"0-9", "graph": r"\x21-\x7e", "lower": r"a-z", "print": r"\x20-\x7e",
    "punct": r"!-/:-@\[-`{-~", "space": r"\s", "upper": r"A-Z", "xdigit": r"0-9A-Fa-f",
}  # fmt: skip
_NAMED_CLASS = re.compile(r"\[:([^]]*):\]")
_NOTHING = "(?!)"


@dataclass(frozen=True)
class _Pattern:
    regex: str
    anchored: bool
    takes_back: bool
    directories_only: bool


class Globs:
    """A list of patterns."""

    def __init__(self, patterns: Iterable[str]) -> None:
        parsed = [p for p in map(_parse, patterns) if p is not None]
        self._steps = [
            (not group[0].takes_back, _compile(group, files=True), _compile(group, files=False))
            for group in _same_sign(parsed)
        ]
        self._steps.reverse()

    def __bool__(self) -> bool:
        return bool(self._steps)

    def decide(self, path: bytes, name: bytes, is_directory: bool) -> bool | None:
        """Return True for matched, False for taken back, None if no pattern matches."""
        for verdict, for_file, for_directory in self._steps:
            by_name, by_path = for_directory if is_directory else for_file
            if (by_name and by_name.fullmatch(name)) or (by_path and by_path.fullmatch(path)):
                return verdict
        return None


def without_effect(patterns: Sequence[str]) -> list[str]:
    """Return each ``!`` pattern that can never take anything back.

    Either no pattern before it matches anything, or one of them matches a directory that holds all
    that it could match: what is in an excluded directory is never looked at.
    """
    globs, found, closing = Globs(patterns), [], False
    for line in patterns:
        pattern = _parse(line)
        if pattern is None:
            continue
        if not pattern.takes_back:
            closing = True
        elif not closing or any(
            globs.decide(path, path.rpartition(b"/")[2], is_directory=True)
            for path in _certain_parents(line)
        ):
            found.append(line)
    return found


def _certain_parents(line: str) -> list[bytes]:
    """Return the directories that hold all that an anchored pattern can match, as far as it names them."""
    segments = line.rstrip(" ").removeprefix("!").removesuffix("/").split("/")
    if segments and not segments[0]:
        del segments[0]
    parents: list[bytes] = []
    for segment in segments[:-1]:
        if re.search(r"[*?\[\\]", segment):
            break
        name = os.fsencode(segment)
        parents.append(parents[-1] + b"/" + name if parents else name)
    return parents


def _same_sign(patterns: Sequence[_Pattern]) -> list[list[_Pattern]]:
    """Neighbours that all match or all take back: the order within them does not matter."""
    groups: list[list[_Pattern]] = []
    for pattern in patterns:
        if groups and groups[-1][0].takes_back == pattern.takes_back:
            groups[-1].append(pattern)
        else:
            groups.append([pattern])
    return groups


_Regex = re.Pattern[bytes] | None


def _compile(group: Sequence[_Pattern], *, files: bool) -> tuple[_Regex, _Regex]:
    usable = [p for p in group if not (files and p.directories_only)]

    def one(regexes: list[str]) -> _Regex:
        return re.compile("|".join(regexes).encode("latin-1"), re.DOTALL) if regexes else None

    return (
        one([p.regex for p in usable if not p.anchored]),
        one([p.regex for p in usable if p.anchored]),
    )


def _parse(line: str) -> _Pattern | None:
    text = os.fsencode(line).decode("latin-1")  # a character for each byte
    text = re.sub(r"(?<!\\) +$", "", text)
    if not text or text.startswith("#"):
        return None
    takes_back = text.startswith("!")
    text = text.removeprefix("!")
    directories_only = text.endswith("/") and not text.endswith("\\/")
    text = text.removesuffix("/") if directories_only else text
    anchored = "/" in text
    text = text.removeprefix("/")
    if not text:
        return None
    regex = _translate(text) if anchored else _segment(text)
    return _Pattern(regex, anchored, takes_back, directories_only)


def _translate(text: str) -> str:
    """Return an anchored pattern as a regular expression; ``**`` stands for any number of names.

    What follows a ``**`` is matched where it is met first, and that is never taken back: as each
    segment is one name, a later place would leave less for the rest. So the time grows with the
    length of path and pattern, not with a power of it.
    """
    blocks: list[list[str]] = [[]]
    for segment in text.split("/"):
        if segment == "**":
            blocks.append([])
        else:
            blocks[-1].append(_segment(segment))
    first, *middle = blocks
    regex = "".join(segment + "/" for segment in first)
    if not middle:
        return regex.removesuffix("/")
    last = middle.pop()
    for block in filter(None, middle):
        regex += f"(?>(?:[^/]+/)*?{''.join(segment + '/' for segment in block)})"
    # At the end: everything within.
    return regex + ("(?:[^/]+/)*" + "/".join(last) if last else ".+")


def _segment(text: str) -> str:
    """Return one name's pattern as a regular expression that never crosses a slash.

    What follows a ``*`` is matched where it is met first, as in ``_translate``.
    """
    blocks, at = [""], 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            blocks.append("")
        elif char == "?":
            blocks[-1] += "[^/]"
        elif char == "[":
            bracket, at = _bracket(text, at)
            blocks[-1] += bracket
        elif char == "\\" and at < len(text):
            blocks[-1] += re.escape(text[at])
            at += 1
        else:
            blocks[-1] += re.escape(char)
    first, *middle = blocks
    if not middle:
        return first
    last = middle.pop()
    return first + "".join(f"(?>[^/]*?{block})" for block in middle if block) + "[^/]*" + last


def _bracket(text: str, start: int) -> tuple[str, int]:
    """Return the class that begins after ``[`` at start, and where it ends; a literal ``[`` if it does not.

    As in git, of a range that ends before it begins only the first byte counts, and a class that
    nobody knows matches nothing.
    """
    at = start
    negated = text[at : at + 1] in ("!", "^")
    at += negated
    inside, before, first = "", "", True
    while at < len(text) and (first or text[at] != "]"):
        first = False
        if named := _NAMED_CLASS.match(text, at):
            if named[1] not in _CLASSES:
                return _NOTHING, len(text)
            inside, before, at = inside + _CLASSES[named[1]], "", named.end()
        elif text[at] == "-" and before and text[at + 1 : at + 2] not in ("", "]"):
            to, at = _literal(text, at + 1)
            inside += f"{re.escape(before)}-{re.escape(to)}" if before <= to else ""
            before = ""
        else:
            before, at = _literal(text, at)
            inside += re.escape(before)
    if at >= len(text):
        return re.escape("["), start
    return f"(?:(?!/)[{'^' if negated else ''}{inside}])", at + 1


def _literal(text: str, at: int) -> tuple[str, int]:
    """Return the byte there, or the one that a backslash there takes as it is, and where the next is."""
    at += text[at] == "\\" and at + 1 < len(text)
    return text[at], at + 1
