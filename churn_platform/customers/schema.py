"""The columns of the customers file, as facts: type, unit, allowed values, gaps and meaning. Pure; no I/O."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["whole", "number", "category", "text"]

DTYPES: dict[Kind, str] = {"whole": "int64", "number": "float64", "category": "object", "text": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the customers file.

    Attributes:
        name: as in the file's header.
        kind: "whole" for whole numbers, "number" for any number, "category" for one of a few texts, "text" for any.
        description: what it means, one sentence.
        unit: of a number, or None.
        minimum: least allowed number, or None for no bound.
        maximum: greatest allowed number, or None for no bound.
        categories: the allowed texts of a category, alphabetical.
        nullable: whether an empty value is allowed.
        unique: whether no two rows may have the same value.
        optional: whether the file may lack the column.
    """

    name: str
    kind: Kind
    description: str
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    nullable: bool = False
    unique: bool = False
    optional: bool = False

    @property
    def dtype(self) -> str:
        """pandas dtype of the column once read: int64, float64 (a gap is NaN) or object (a gap is None)."""
        return DTYPES[self.kind]

    @property
    def allowed(self) -> str:
        """The allowed values in words, such as "300 to 900 points" or "Female or Male, or empty"."""
        if self.categories:
            values = f"{', '.join(self.categories[:-1])} or {self.categories[-1]}"
        elif self.kind == "text":
            values = "any text"
        else:
            values = self._allowed_numbers()
        return f"{values}, or empty" if self.nullable else values

    def _allowed_numbers(self) -> str:
        if (self.minimum, self.maximum) == (0, 1):
            return "0 or 1"
        number = "a whole number" if self.kind == "whole" else "a number"
        unit = f" {self.unit}" if self.unit else ""
        if self.minimum is None or self.maximum is None:
            return f"{number}{unit}" if self.minimum is None else f"{number} from {self.minimum:,.10g}{unit}"
        return f"{number} from {self.minimum:,.10g} to {self.maximum:,.10g}{unit}"


COLUMNS = (
    Column(
        name="RowNumber",
        kind="whole",
        minimum=1,
        unique=True,
        description="Position of the customer in the file.",
    ),
    Column(
        name="CustomerId",
        kind="whole",
        minimum=0,
        unique=True,
        description="The bank's number for the customer.",
    ),
    Column(
        name="Firstname",
        kind="text",
        nullable=True,
        optional=True,
        description="First name; feeds no feature.",
    ),
    Column(
        name="Lastname",
        kind="text",
        nullable=True,
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
        nullable=True,
        description="Gender; a customer without one is not used for training.",
    ),
    Column(
        name="Age",
        kind="number",
        unit="years",
        minimum=18,
        maximum=120,
        nullable=True,
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
        maximum=1e9,
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
        maximum=1e9,
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

COLUMN_NAMES = tuple(column.name for column in COLUMNS)
COLUMNS_BY_NAME = {column.name: column for column in COLUMNS}
OTHER_NAMES = {"Surname": "Lastname"}  # header of the original public file, and the column it fills
