"""Intervals of shares."""

Z = 1.959964
"""Standard deviations on either side that hold 95% of a normal distribution."""


def wilson(share: float, count: float, z: float = Z) -> tuple[float, float]:
    """Return Wilson's interval of a share of `count` texts, from their number alone; it holds at 0 and 1, too.

    count: above 0; need not be whole (a mean over seeds).
    """
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return max(min(middle - half, share), 0.0), min(max(middle + half, share), 1.0)
