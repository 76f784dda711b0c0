"""What the platform tells Spark's driver to prepare, and what the driver tells it of the result."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Self

from churn_platform.database.erased_customers import ErasedCustomers
from churn_platform.schema.customer_schema import CustomerSchema


class Step(Enum):
    """A part of the preparation. Each is a driver of its own, so that checks can stop the next one."""

    read = "read"
    """From the customers file to raw_customers and quarantined_customers."""
    clean = "clean"
    """From raw_customers to cleaned_customers."""
    features = "features"
    """From cleaned_customers to all other assets of the preparation."""


@dataclass(frozen=True, kw_only=True)
class PreparationOrder:
    """What Spark is to prepare.

    Attributes:
        step: which part of the preparation.
        place: path or s3:// address of the customers file, or of a folder of such files.
        schema: of the customers.
        assets: folder or s3:// prefix of the assets' files.
        staging: folder or s3:// prefix of the parts of these files, of this order only. All executors can reach it.
        part_rows: most rows of a part. A task holds one part in memory.
        erased: the customers who are left out.
    """

    step: Step
    place: str
    schema: CustomerSchema
    assets: str
    staging: str
    part_rows: int
    erased: ErasedCustomers

    def to_json(self) -> str:
        """Return the order as JSON."""
        return json.dumps(
            {
                "step": self.step.value,
                "place": self.place,
                "schema": self.schema.to_json(),
                "assets": self.assets,
                "staging": self.staging,
                "part_rows": self.part_rows,
                "erased": {
                    "version": self.erased.version,
                    "key": self.erased.key.hex(),
                    "hashes": sorted(each.hex() for each in self.erased.hashes),
                },
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the order that to_json() wrote."""
        document = json.loads(text)
        erased = document["erased"]
        return cls(
            step=Step(document["step"]),
            place=document["place"],
            schema=CustomerSchema.from_json(document["schema"]),
            assets=document["assets"],
            staging=document["staging"],
            part_rows=document["part_rows"],
            erased=ErasedCustomers(
                erased["version"], bytes.fromhex(erased["key"]), frozenset(map(bytes.fromhex, erased["hashes"]))
            ),
        )


@dataclass(frozen=True, kw_only=True)
class FileRead:
    """The customers file as it was read. See `CustomersFile`, whose attributes these are.

    Attributes:
        rows: number of its rows, quarantined ones and duplicates counted.
        customers: number of customers in raw_customers.
        quarantined: number of rows in quarantined_customers.
        duplicates: number of rows that were there before, value for value.
        detected: file name -> its format as text.
        sha256: hexadecimal SHA-256 of the file or the folder.
        size_bytes: number of bytes.
        modified: when the file, or the latest of a folder, was last modified.
    """

    rows: int
    customers: int
    quarantined: int
    duplicates: int
    detected: Mapping[str, str]
    sha256: str
    size_bytes: int
    modified: datetime

    @property
    def erased(self) -> int:
        """Number of rows that were left out, because they are of erased customers."""
        return self.rows - self.duplicates - self.customers - self.quarantined

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps({**vars(self), "detected": dict(self.detected), "modified": self.modified.isoformat()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what to_json() wrote."""
        document = json.loads(text)
        return cls(**{**document, "modified": datetime.fromisoformat(document["modified"])})
