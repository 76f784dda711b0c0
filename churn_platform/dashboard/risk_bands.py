"""How pages show a risk score: its band, and how it has changed. Pure.

Three bands let people read a score at a glance. High is what the platform itself treats as high risk: it opens cases
and explains scores from the high-risk threshold on. Medium begins at half of it.
"""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from churn_platform.dashboard.formats import percent

Band = Literal["high", "medium", "low"]
BANDS: Final[tuple[Band, ...]] = get_args(Band)
_LEAST_CHANGE: Final = 0.0005
"""A smaller change of a score would be shown as 0.0 points."""


@dataclass(frozen=True)
class RiskBands:
    """The bands that follow from the high-risk threshold, 0..1."""

    threshold: float

    @property
    def medium_from(self) -> float:
        """Lowest score of the medium band."""
        return self.threshold / 2

    @property
    def explanation(self) -> str:
        """What the bands are, as a sentence."""
        return (
            f"High: at least the high-risk threshold of {percent(self.threshold, 0)}. Medium: at least half of it. "
            f"Low: below that."
        )

    def of(self, risk_score: float) -> Band:
        """Return the band of a score, 0..1."""
        return "high" if risk_score >= self.threshold else "medium" if risk_score >= self.medium_from else "low"

    def bounds(self, band: Band) -> tuple[float | None, float | None]:
        """Return the lowest score of a band, and the lowest one above it; None for no bound."""
        return {
            "high": (self.threshold, None),
            "medium": (self.medium_from, self.threshold),
            "low": (None, self.medium_from),
        }[band]


@dataclass(frozen=True)
class Trend:
    """How a score has changed: an arrow for the eye, and percentage points. `tone` is "bad" if the risk rises."""

    arrow: str
    text: str
    tone: Literal["good", "bad", "soft"]


def trend(risk_score: float, previous: float | None) -> Trend:
    """Return how a score, 0..1, differs from the one before."""
    if previous is None:
        return Trend("", "first", "soft")
    change = risk_score - previous
    if abs(change) < _LEAST_CHANGE:
        return Trend("\u2192", "0.0", "soft")
    text = f"{100 * change:+.1f}"
    return Trend("\u2197", text, "bad") if change > 0 else Trend("\u2198", text, "good")
