"""Files that only their owner may read, such as those of passwords' hashes."""

import os
from pathlib import Path


def write_private(file: Path, content: str | bytes) -> None:
    """Replace a file, in one step. Only its owner can read it, from the beginning.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writer:
        writer.write(content.encode() if isinstance(content, str) else content)
    draft.replace(file)
