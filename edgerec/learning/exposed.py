"""What a page showed and the user passed over: negatives that say more than items drawn from the catalogue.

A user reads a page from the top (the cascade of Craswell et al. 2008, "An experimental comparison of click
position-bias models"): what stands above the chosen place k was seen and passed over. What stands below it, at j > k,
was seen with a probability of k / j, a position-based examination of 1/place. So that an item is no negative only for
having been low, negatives are drawn from the page without replacement with these probabilities for weights (Efraimidis
& Spirakis 2006).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edgerec.learning.draws import streams


def passed_over(
    shown: Sequence[tuple[str, int]], item: str, event_id: str, most: int, known: Collection[str]
) -> list[str]:
    """At most `most` items of a page that were passed over for `item`, drawn from the event's id.

    `shown`: (item, position from 1) · `known`: items that the user had to do with lately; they are left out. Empty
    where the page did not show the item.
    """
    place = next((position for other, position in shown if other == item), None)
    if place is None:
        return []
    others = [(other, position) for other, position in shown if other != item and other not in known]
    if not others:
        return []
    drawn = streams([f"exposed:{event_id}"], len(others))[0].tolist()
    keys = [
        ((number + 1) / 2.0**64) ** (1.0 / min(place / position, 1.0))
        for number, (_, position) in zip(drawn, others, strict=True)
    ]
    best = sorted(range(len(others)), key=lambda n: (-keys[n], n))[:most]
    return [others[n][0] for n in best]
