"""Commands with their output, as `console` blocks of the pages show them: read, compared, rewritten."""

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
    """A command on a page with the lines that it is shown to print."""

    page: Path
    command: str
    shown: tuple[str, ...]

    @property
    def block(self) -> str:
        """The lines of the page."""
        return "\n".join([f"$ {self.command}", *self.shown])

    def matches(self, printed: Sequence[str]) -> bool:
        """Whether the shown lines are the printed ones. `...` is anything; alone on a line, any number of lines."""
        return _match([*map(_pattern, self.shown)], [*map(normalised, printed)])

    def updated(self, printed: Sequence[str]) -> "Example":
        """The example with the printed lines. A matching line with `...` stays as shown, and so does one line `...`."""
        shortened = [line for line in self.shown if ELISION in line and line != ELISION]
        kept = [next((line for line in shortened if _is_shown(line, found)), found) for found in printed]
        if self.shown.count(ELISION) == 1:
            first = self.shown.index(ELISION)
            last = len(self.shown) - first - 1
            if first + last < len(kept):
                kept = [*kept[:first], ELISION, *kept[len(kept) - last :]]
        return replace(self, shown=tuple(kept))


def examples(page: Path) -> Iterator[Example]:
    """The commands of a page, in order."""
    for fence in fences(page):
        if fence.language == "console":
            for part in re.split(r"^\$ ", fence.body, flags=re.MULTILINE)[1:]:
                command, *shown = part.rstrip().splitlines()
                yield Example(page, command, tuple(shown))


def normalised(line: str) -> str:
    """A line without what differs from one run to the next: ids, numbers, units, widths of columns."""
    line = _NUMBER.sub("#", _TOPIC_ID.sub("ID", _UUID.sub("ID", line)))
    return re.sub(r"\s+", " ", _UNIT.sub("# unit", line)).strip()


def renamed(text: str, names: Mapping[str, str]) -> str:
    """The text with names replaced, the longest first. Columns after them stay aligned."""
    for name in sorted(names, key=len, reverse=True):
        before, *parts = text.split(name)
        text = before + "".join(_replaced(names[name], len(name), part) for part in parts)
    return text


def _replaced(name: str, width: int, following: str) -> str:
    """A name in the place of one of that width, and what follows it, in its columns."""
    line, newline, rest = following.partition("\n")
    gap = re.search(" {2,}", line)
    if gap:
        line = line[: gap.start()] + " " * max(2, len(gap[0]) + width - len(name)) + line[gap.end() :]
    return name + line + newline + rest


def name_of(page: Path) -> str:
    """A page within the project."""
    return str(page.relative_to(PROJECT_ROOT))


def _pattern(line: str) -> str:
    return ELISION if line == ELISION else normalised(line)


def _is_shown(shown: str, printed: str) -> bool:
    return _match([normalised(shown)], [normalised(printed)])


def _match(patterns: Sequence[str], lines: Sequence[str]) -> bool:
    if not patterns:
        return not lines
    first, *rest = patterns
    if first == ELISION:
        return any(_match(rest, lines[skipped:]) for skipped in range(len(lines) + 1))
    expected = re.escape(first).replace(r"\.\.\.", ".*")
    return bool(lines) and re.fullmatch(expected, lines[0]) is not None and _match(rest, lines[1:])
