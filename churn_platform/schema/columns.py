"""The columns of a customer: type, unit, allowed values, missing values and meaning. Pure; no I/O.

This is the one definition. The file reader, the checks of the files, the decoder of the stream's events and the frames
that MLflow scores are all made from it, so that they accept and refuse the same values.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["whole", "number", "category", "text"]
Missing = Literal["refused", "left out", "imputed", "kept"]
"""What a missing value means.

refused: a file with one is refused, an event with one is a dead letter. left out: the row is not used for training, an
event is a dead letter. imputed: it is replaced, for training and for scoring. kept: nothing reads the column.
"""

MISSING_TEXTS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""What a file may write for a missing number; in a column of texts only the empty value is missing."""
MOST_CUSTOMER_ID = 2**62  # leaves the whole range of a PostgreSQL bigint above it free

DTYPES: dict[Kind, str] = {"whole": "int64", "number": "float64", "category": "object", "text": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a customer.

    Attributes:
        name: as in the file's header and in events.
        kind: "whole" for whole numbers, "number" for any number, "category" for one of a few texts, "text" for any.
        description: what it means, one sentence.
        unit: of a number, or None.
        minimum: least allowed number, or None for no bound.
        maximum: greatest allowed number, or None for no bound.
        categories: the allowed texts of a category, alphabetical.
        missing: what a missing value means.
        unique: whether no two rows of a file may have the same value.
        optional: whether the file may lack the column.
        counted: whether the reader counts the rows instead of reading the column.
    """

    name: str
    kind: Kind
    description: str
    unit: str | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    categories: tuple[str, ...] = ()
    missing: Missing = "refused"
    unique: bool = False
    optional: bool = False
    counted: bool = False

    @property
    def dtype(self) -> str:
        """pandas dtype of the column once read: int64, float64 (a gap is NaN) or object (a gap is None)."""
        return DTYPES[self.kind]

    @property
    def nullable(self) -> bool:
        """Whether a row of a file may lack the value."""
        return self.missing != "refused"

    def is_missing(self, text: str) -> bool:
        """Whether a file's text, without spaces around it, stands for a missing value."""
        return text in (MISSING_TEXTS if self.kind in ("whole", "number") else MISSING_TEXTS[:1])

    @property
    def allowed(self) -> str:
        """The values that a file may have, as text, such as "300 to 900 points" or "Female or Male, or empty"."""
        return f"{self._values()}, or empty" if self.nullable else self._values()

    @property
    def allowed_when_scored(self) -> str:
        """The values that a customer who is to be scored may have, as text."""
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
        description="Position of the customer in the file; counted, whatever the file has there.",
    ),
    Column(
        name="CustomerId",
        kind="whole",
        minimum=0,
        maximum=MOST_CUSTOMER_ID,
        unique=True,
        description="The bank's number for the customer.",
    ),
    Column(
        name="Firstname",
        kind="text",
        missing="kept",
        optional=True,
        description="First name; feeds no feature.",
    ),
    Column(
        name="Lastname",
        kind="text",
        missing="kept",
        optional=True,
        description="Last name, called Surname in the public file; feeds no feature.",
    ),
    Column(
        name="CreditScore",
        kind="whole",
        unit="points",
        minimum=300,
        maximum=900,
        description="Credit score; the bank's own are capped at 850.",
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
        missing="left out",
        description="Gender; a customer without one is not used for training.",
    ),
    Column(
        name="Age",
        kind="number",
        unit="years",
        minimum=18,
        maximum=120,
        missing="imputed",
        description="Age in completed years; a gap is imputed.",
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
        description="Money in the account, to the cent; 0 for an account without any.",
    ),
    Column(
        name="NumOfProducts",
        kind="whole",
        unit="products",
        minimum=1,
        maximum=10,
        description="How many of the bank's products the customer has.",
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
        description="1 for a customer that the bank counts as active.",
    ),
    Column(
        name="EstimatedSalary",
        kind="number",
        unit="euros a year",
        minimum=0,
        maximum=1_000_000_000,
        description="The bank's estimate of the yearly salary, to the cent.",
    ),
    Column(
        name="Exited",
        kind="whole",
        minimum=0,
        maximum=1,
        description="1 for a customer who left: what the model predicts.",
    ),
)

CUSTOMER_ID = "CustomerId"
COLUMN_NAMES = tuple(column.name for column in COLUMNS)
COLUMNS_BY_NAME = {column.name: column for column in COLUMNS}
OTHER_NAMES = {"Surname": "Lastname"}  # header of the original public file, and the column it fills
