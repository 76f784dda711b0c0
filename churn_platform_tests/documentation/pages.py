"""The content of the documentation pages: links, blocks of code, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from churn_platform.settings import PROJECT_ROOT

PAGES = tuple(
    sorted(page for pattern in ("*.md", "docs/*.md", "docs/*/*.md", "data/*.md") for page in PROJECT_ROOT.glob(pattern))
)  # not **/*.md: folders such as .venv contain pages of other projects
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
        """The page and the first line, which identify the block in test names."""
        return f"{self.page.relative_to(PROJECT_ROOT)}: {self.body.splitlines()[0]}"

    @property
    def lines(self) -> list[str]:
        """The commands of the block, one per line, without comments."""
        typed = self.body.replace("\\\n", " ").splitlines()
        if self.language == "console":
            typed = [line.removeprefix("$ ") for line in typed if line.startswith("$ ")]
        return [stripped for line in typed if (stripped := re.sub(r"\s+# .*$|^#.*$", "", line).strip())]


def fences(page: Path) -> Iterator[Fence]:
    """Yield the blocks of a page."""
    for found in _FENCE.finditer(page.read_text()):
        yield Fence(page, found["language"], found["body"].replace("\n" + found["margin"], "\n").strip())


def words_of(line: str) -> list[str]:
    """Return the words of a command, without variable assignments before it."""
    words = shlex.split(line)
    while words and _ASSIGNMENT.match(words[0]):
        words.pop(0)
    return words


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub derives them."""
    text = page.read_text()
    if included := re.search(r"```\{include\} (\S+)", text):
        return anchors(page.parent / included[1])
    text = _FENCE.sub("", text)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading)).strip().lower().replace(" ", "-") for heading in headings
    }


def links(page: Path) -> list[str]:
    """Return the targets of all links and images that are files of the project."""
    text = _FENCE.sub("", page.read_text())
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]
