"""Ids of events: a UUID for each, whatever was sent. Pure; no I/O."""

import re
import uuid
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Namespace of ids that are not UUIDs. Fixed forever: the same text must map to the same event_id.
EVENT_NAMESPACE: Final = uuid.UUID("5f2f7f0e-5d0c-4c51-9b7a-0f3a6a0e7c11")
UUID_CHARACTERS: Final = 36

_HYPHENS: Final = (8, 13, 18, 23)
_HEX: Final = "[0-9a-fA-F]"
_UUID_FORM: Final = re.compile(
    rf"(?P<brace>\{{)?(?:urn:uuid:)?(?:(?P<hyphened>{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}})|(?P<bare>{_HEX}{{32}}))"
    r"(?(brace)\})"
)


def positional_id(topic_id: str, partition: int, offset: int) -> uuid.UUID:
    """Return the id of the event at this place in Kafka.

    An event that was sent without an id has it, and so has the corrected event for a dead letter.
    """
    return uuid.uuid5(EVENT_NAMESPACE, f"{topic_id}/{partition}/{offset}")


def canonical_event_id(sent: str) -> uuid.UUID:
    """Return the event_id of an id as it was sent: the UUID that it is, or one that is made of the text."""
    return as_uuid(sent) or uuid.uuid5(EVENT_NAMESPACE, sent)


def as_uuid(text: str) -> uuid.UUID | None:
    """Return the UUID that a text is, also in capitals, in braces or as a URN; None if it is not a UUID."""
    written = _UUID_FORM.fullmatch(text)
    return None if written is None else uuid.UUID(written["hyphened"] or written["bare"])


def uuid_bytes(ids: Sequence[str]) -> NDArray[np.void] | None:
    """Return ids of 36 characters as 16 bytes each, shape (n,); None if one of them is not a UUID with hyphens."""
    text = "\n".join(ids) + "\n"
    raw = text.encode()
    if not ids:
        return np.empty(0, "V16")
    if len(raw) != len(ids) * (UUID_CHARACTERS + 1):
        return None
    characters = np.frombuffer(raw, np.uint8).reshape(len(ids), UUID_CHARACTERS + 1)
    if not (characters[:, _HYPHENS] == ord("-")).all() or not (characters[:, -1] == ord("\n")).all():
        return None
    try:
        found = bytes.fromhex(text.replace("-", ""))  # skips the line breaks
    except ValueError:
        return None
    return np.frombuffer(found, "V16") if len(found) == 16 * len(ids) else None
