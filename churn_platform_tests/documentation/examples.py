"""Commands and their documented output in the `console` blocks of the pages: read, compared, rewritten."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from churn_platform.settings import PROJECT_ROOT
from churn_platform_tests.documentation.pages import fences

ELISION = "..."
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_TOPIC_ID = re.compile(r"(?<![\w+/-])(?=[\w+/-]*[A-Z])(?=[\w+/-]*[a-z])[\w+/-]{22}(?![\w+/-])")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_UNIT = re.compile(r"# (?:s|ms|min|h|bytes|kB|MB|GB)\b")


@dataclass(frozen=True)
class Example:
    """A command on a page with its documented output."""

    page: Path
    command: str
    documented: tuple[str, ...]

    @property
    def block(self) -> str:
        """The example as it is written on the page."""
        return "\n".join([f"$ {self.command}", *self.documented])

    def matches(self, printed: Sequence[str]) -> bool:
        """Return whether the documented lines match the printed ones. A line `...` matches any number of lines."""
        return _match([*map(_pattern, self.documented)], [*map(normalised, printed)])

    def updated(self, printed: Sequence[str]) -> "Example":
        """Return the example with the printed lines. A matching line with `...` stays, and so does one line `...`."""
        shortened = [line for line in self.documented if ELISION in line and line != ELISION]
        kept = [next((line for line in shortened if _matches_line(line, found)), found) for found in printed]
        if self.documented.count(ELISION) == 1:
            first = self.documented.index(ELISION)
            last = len(self.documented) - first - 1
            if first + last < len(kept):
                kept = [*kept[:first], ELISION, *kept[len(kept) - last :]]
        return replace(self, documented=tuple(kept))


def examples(page: Path) -> Iterator[Example]:
    """Yield the examples of a page, in order."""
    for fence in fences(page):
        if fence.language == "console":
            for part in re.split(r"^\$ ", fence.body, flags=re.MULTILINE)[1:]:
                command, *documented = part.rstrip().splitlines()
                yield Example(page, command, tuple(documented))


def normalised(line: str) -> str:
    """Return a line with ids, numbers, units and column widths replaced, because they differ from run to run."""
    line = _NUMBER.sub("#", _TOPIC_ID.sub("ID", _UUID.sub("ID", line)))
    return re.sub(r"\s+", " ", _UNIT.sub("# unit", line)).strip()


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Return the text with names replaced, the longest first. The columns after them stay aligned."""
    for name in sorted(names, key=len, reverse=True):
        before, *parts = text.split(name)
        text = before + "".join(_replaced(names[name], len(name), part) for part in parts)
    return text


def _replaced(name: str, width: int, following: str) -> str:
    """Return the new name and the text that follows it, with the spaces adjusted to the old name's width."""
    line, newline, rest = following.partition("\n")
    spaces = re.search(" {2,}", line)
    if spaces:
        line = line[: spaces.start()] + " " * max(2, len(spaces[0]) + width - len(name)) + line[spaces.end() :]
    return name + line + newline + rest


def name_of(page: Path) -> str:
    """Return the path of a page, relative to the project."""
    return str(page.relative_to(PROJECT_ROOT))


def _pattern(line: str) -> str:
    return ELISION if line == ELISION else normalised(line)


def _matches_line(documented: str, printed: str) -> bool:
    return _match([normalised(documented)], [normalised(printed)])


def _match(patterns: Sequence[str], lines: Sequence[str]) -> bool:
    if not patterns:
        return not lines
    first, *rest = patterns
    if first == ELISION:
        return any(_match(rest, lines[skipped:]) for skipped in range(len(lines) + 1))
    expected = re.escape(first).replace(r"\.\.\.", ".*")
    return bool(lines) and re.fullmatch(expected, lines[0]) is not None and _match(rest, lines[1:])
