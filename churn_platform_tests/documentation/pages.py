"""The content of the pages: links, fences, the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from churn_platform.settings import PROJECT_ROOT

PAGES = tuple(
    sorted(page for pattern in ("*.md", "docs/*.md", "docs/*/*.md", "data/*.md") for page in PROJECT_ROOT.glob(pattern))
)  # globbed by name: folders that a checkout's tools make hold pages of others
_FENCE = re.compile(r"^(?P<margin> *)```(?P<language>[\w{}-]*)\n(?P<body>.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Z_0-9]+=")


@dataclass(frozen=True)
class Fence:
    """A block of code on a page."""

    page: Path
    language: str
    body: str

    @property
    def name(self) -> str:
        """Page and first line, to be found by."""
        return f"{self.page.relative_to(PROJECT_ROOT)}: {self.body.splitlines()[0]}"

    @property
    def lines(self) -> list[str]:
        """What a person types, a command in each, without comments."""
        typed = self.body.replace("\\\n", " ").splitlines()
        if self.language == "console":
            typed = [line.removeprefix("$ ") for line in typed if line.startswith("$ ")]
        return [stripped for line in typed if (stripped := re.sub(r"\s+# .*$|^#.*$", "", line).strip())]


def fences(page: Path) -> Iterator[Fence]:
    """All blocks of a page."""
    for found in _FENCE.finditer(page.read_text()):
        yield Fence(page, found["language"], found["body"].replace("\n" + found["margin"], "\n").strip())


def words_of(line: str) -> list[str]:
    """The words of a command, without the settings before it."""
    words = shlex.split(line)
    while words and _ASSIGNMENT.match(words[0]):
        words.pop(0)
    return words


def anchors(page: Path) -> set[str]:
    """What a link to the page may name after #, as GitHub makes it of the headings."""
    text = page.read_text()
    if included := re.search(r"```\{include\} (\S+)", text):
        return anchors(page.parent / included[1])
    text = _FENCE.sub("", text)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading)).strip().lower().replace(" ", "-") for heading in headings
    }


def links(page: Path) -> list[str]:
    """Targets of all links and pictures that lead into the project."""
    text = _FENCE.sub("", page.read_text())
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]
