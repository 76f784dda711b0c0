"""A customer with some values changed: what the request says, and the customers that it describes. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from churn_platform.api.config import MOST_ALTERNATIVES
from churn_platform.api.exceptions import ProblemError

_WRONG: Final = "The request is not valid"
_FORM: Final = 'Send {"customer": {...}, "changes": {...}}, with an array in changes for several alternatives.'


class _Request(msgspec.Struct):
    customer: msgspec.Raw
    changes: dict[str, msgspec.Raw] | list[dict[str, msgspec.Raw]]


_decode = msgspec.json.Decoder(_Request).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True)
class WhatIfRequest:
    """What is asked.

    Attributes:
        customer: an event, as it was sent.
        changes: the changed fields of each alternative, with their values as they were sent.
        is_single: whether changes were sent as one object and not as an array.
    """

    customer: bytes
    changes: Sequence[Mapping[str, msgspec.Raw]]
    is_single: bool

    @property
    def variants(self) -> list[bytes]:
        """The customer with each of the changes.

        A customer that is no JSON object stays as it is: why it cannot be scored is the same for all variants.
        """
        try:
            fields = _decode_fields(self.customer)
            wrapped = _decode_fields(fields["data"]) if fields.keys() >= {"timestamp", "data"} else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return [self.customer] * len(self.changes)
        return [
            msgspec.json.encode(
                {**fields, **changes} if wrapped is None else {**fields, "data": {**wrapped, **changes}}
            )
            for changes in self.changes
        ]


def parse(body: bytes, *, fields: Collection[str]) -> WhatIfRequest:
    """Return what a request asks.

    Args:
        body: of the request.
        fields: which ones may be changed.

    Raises:
        ProblemError: it is not such a request, has no or too many alternatives, or changes a field that does not exist.
    """
    try:
        request = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(422, _WRONG, f"{_FORM} Found instead: {error}") from error
    is_single = isinstance(request.changes, dict)
    changes = [request.changes] if isinstance(request.changes, dict) else request.changes
    if not changes:
        raise ProblemError(422, _WRONG, f"changes is empty. {_FORM}")
    if len(changes) > MOST_ALTERNATIVES:
        raise ProblemError(
            413, "Too many alternatives", f"changes has {len(changes)} alternatives, at most {MOST_ALTERNATIVES}."
        )
    for number, each in enumerate(changes):
        for name in each:
            if name not in fields:
                raise ProblemError(
                    422,
                    _WRONG,
                    f"changes[{number}] names {name[:40]!r}, which a customer does not have. Choose among "
                    f"{', '.join(fields)}.",
                )
    return WhatIfRequest(bytes(request.customer), changes, is_single)
