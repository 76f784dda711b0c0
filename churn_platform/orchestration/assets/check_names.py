"""Names of checks that are about columns. Dagster allows letters, digits and underscores of ASCII only."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9_]+")


def check_names(columns: Iterable[str]) -> Mapping[str, str]:
    """Return a part of a check's name for each column: its name if Dagster allows it, else what is left of it.

    Accents are dropped, and what remains forbidden becomes an underscore: "Café visits" -> "Cafe_visits".
    Different columns have different names: the second one of the same name ends with "_2".
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for column in sorted(columns, key=lambda column: bool(_FORBIDDEN.search(column))):  # allowed names stay
        letters = (each for each in unicodedata.normalize("NFKD", column) if not unicodedata.combining(each))
        plain = _FORBIDDEN.sub("_", "".join(letters)) or "_"
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name)
        names[column] = name
    return names
