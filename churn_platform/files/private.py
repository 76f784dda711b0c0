"""Files that only their owner may read, such as those of passwords' hashes."""

import os
from pathlib import Path


def write_private(file: Path, text: str) -> None:
    """Replace a file, in one step. Only its owner can read it, from the beginning.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as writer:
        writer.write(text)
    draft.replace(file)
