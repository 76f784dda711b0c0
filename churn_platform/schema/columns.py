"""The columns of a customer: type, unit, allowed values, missing values and meaning. Pure; no I/O.

This is the only definition. The file reader, the asset checks, the decoder of events and the frames that MLflow scores
all derive from it, so that they accept and reject the same values.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["whole", "number", "category", "text"]
Missing = Literal["rejected", "dropped", "imputed", "ignored"]
"""How a missing value is handled.

rejected: a file with one is an error, and an event with one becomes a dead letter. dropped: the row is not used for
training, and an event becomes a dead letter. imputed: it is replaced, in training and in scoring. ignored: nothing
reads the column.
"""

MISSING_TEXTS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Texts that stand for a missing number. In a column of texts only the empty value is missing."""
MAX_CUSTOMER_ID = 2**62  # half of a PostgreSQL bigint's range stays free

DTYPES: dict[Kind, str] = {"whole": "int64", "number": "float64", "category": "object", "text": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a customer.

    Attributes:
        name: name in the file's header and in events.
        kind: "whole" for whole numbers, "number" for any number, "category" for one of a few texts, "text" for any.
        description: its meaning, in one sentence.
        unit: unit of a number, or None.
        minimum: smallest allowed number, or None for no bound.
        maximum: largest allowed number, or None for no bound.
        categories: the allowed texts of a category, in alphabetical order.
        missing: how a missing value is handled.
        unique: whether all rows of a file must have different values.
        optional: whether the column may be missing from the file.
        counted: whether the reader numbers the rows instead of reading the column.
    """

    name: str
    kind: Kind
    description: str
    unit: str | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    categories: tuple[str, ...] = ()
    missing: Missing = "rejected"
    unique: bool = False
    optional: bool = False
    counted: bool = False

    @property
    def dtype(self) -> str:
        """pandas dtype of the column: int64, float64 (NaN if missing) or object (None if missing)."""
        return DTYPES[self.kind]

    @property
    def nullable(self) -> bool:
        """Whether the value may be missing from a row of a file."""
        return self.missing != "rejected"

    def is_missing(self, text: str) -> bool:
        """Return whether a text of the file, stripped of spaces, stands for a missing value."""
        return text in (MISSING_TEXTS if self.kind in ("whole", "number") else MISSING_TEXTS[:1])

    @property
    def allowed(self) -> str:
        """The values allowed in a file, as text, such as "300 to 900 points" or "Female or Male, or empty"."""
        return f"{self._values()}, or empty" if self.nullable else self._values()

    @property
    def allowed_when_scored(self) -> str:
        """The values allowed in scoring, as text."""
        return f"{self._values()}, or null" if self.missing == "imputed" else self._values()

    def _values(self) -> str:
        if self.categories:
            return f"{', '.join(self.categories[:-1])} or {self.categories[-1]}"
        return "any text" if self.kind == "text" else self._allowed_numbers()

    def _allowed_numbers(self) -> str:
        if (self.minimum, self.maximum) == (0, 1):
            return "0 or 1"
        number = "a whole number" if self.kind == "whole" else "a number"
        unit = f" {self.unit}" if self.unit else ""
        if self.minimum is None or self.maximum is None:
            return f"{number}{unit}" if self.minimum is None else f"{number} from {_digits(self.minimum)}{unit}"
        return f"{number} from {_digits(self.minimum)} to {_digits(self.maximum)}{unit}"


def _digits(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.10g}"


COLUMNS = (
    Column(
        name="RowNumber",
        kind="whole",
        minimum=1,
        optional=True,
        counted=True,
        description="Position of the customer in the file. The reader numbers the rows and ignores the file's values.",
    ),
    Column(
        name="CustomerId",
        kind="whole",
        minimum=0,
        maximum=MAX_CUSTOMER_ID,
        unique=True,
        description="The bank's number for the customer.",
    ),
    Column(
        name="Firstname",
        kind="text",
        missing="ignored",
        optional=True,
        description="First name. Not used for features.",
    ),
    Column(
        name="Lastname",
        kind="text",
        missing="ignored",
        optional=True,
        description="Last name, called Surname in the public file. Not used for features.",
    ),
    Column(
        name="CreditScore",
        kind="whole",
        unit="points",
        minimum=300,
        maximum=900,
        description="Credit score. The bank's own scores are capped at 850.",
    ),
    Column(
        name="Geography",
        kind="category",
        categories=("France", "Germany", "Spain"),
        description="Country of the customer's account.",
    ),
    Column(
        name="Gender",
        kind="category",
        categories=("Female", "Male"),
        missing="dropped",
        description="Gender. Customers without one are not used for training.",
    ),
    Column(
        name="Age",
        kind="number",
        unit="years",
        minimum=18,
        maximum=120,
        missing="imputed",
        description="Age in completed years. Missing values are imputed.",
    ),
    Column(
        name="Tenure",
        kind="whole",
        unit="years",
        minimum=0,
        maximum=50,
        description="Completed years with the bank.",
    ),
    Column(
        name="Balance",
        kind="number",
        unit="euros",
        minimum=0,
        maximum=1_000_000_000,
        description="Money in the account, to the cent; 0 for an empty account.",
    ),
    Column(
        name="NumOfProducts",
        kind="whole",
        unit="products",
        minimum=1,
        maximum=10,
        description="Number of the bank's products that the customer has.",
    ),
    Column(
        name="HasCrCard",
        kind="whole",
        minimum=0,
        maximum=1,
        description="1 for a customer with a credit card.",
    ),
    Column(
        name="IsActiveMember",
        kind="whole",
        minimum=0,
        maximum=1,
        description="1 for a customer whom the bank counts as active.",
    ),
    Column(
        name="EstimatedSalary",
        kind="number",
        unit="euros a year",
        minimum=0,
        maximum=1_000_000_000,
        description="The bank's estimate of the annual salary, to the cent.",
    ),
    Column(
        name="Exited",
        kind="whole",
        minimum=0,
        maximum=1,
        description="1 for a customer who left. This is what the model predicts.",
    ),
)

CUSTOMER_ID = "CustomerId"
COLUMN_NAMES = tuple(column.name for column in COLUMNS)
COLUMNS_BY_NAME = {column.name: column for column in COLUMNS}
OTHER_NAMES = {"Surname": "Lastname"}  # name in the original public file -> column that it fills
