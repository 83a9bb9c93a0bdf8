"""From columns to what a list is made of: who bought which titled items, in which order.

Shapes: N rows, P distinct user-item pairs, U users, I items, M rows of users who get a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opdcliff.data.amazon.columns import Metas, Reviews
from opdcliff.data.amazon.lists import shorten


@dataclass(frozen=True)
class Counts:
    """Reviews and users that each filter leaves.

    users: distinct users with a usable review. pairs: distinct user-item pairs; repeated_pairs:
    those of them that come more than once. interactions: pairs whose item has a title, and
    titled_users: users with such an item. kept: interactions of the users with enough of them.
    """

    users: int
    pairs: int
    repeated_pairs: int
    interactions: int
    titled_users: int
    kept: int


@dataclass(frozen=True)
class Histories:
    """Users with enough distinct titled items, and the items of all who might have.

    pool: items that negatives come from, sorted: the titled ones of users with enough distinct
        items, titled or not. titles: the shortened title of each. popularity: how many users
        reviewed it, of all users there are.
    users: ids of the users with enough titled items. active: places of those with enough items.
    """

    users: list[str]
    pool: list[str]
    titles: Mapping[str, str]
    popularity: Mapping[str, int]
    active: frozenset[str]
    counts: Counts
    # Rows of those users in order of (user, time, item id, stars); of user k from start[k] on.
    _start: NDArray[np.int64]
    _item_M: NDArray[np.int64]
    _stars_M: NDArray[np.int8]

    def of(self, place: int) -> dict[str, int]:
        """Titled items of the user at that place of `users`, in order of first review; stars."""
        rows = slice(int(self._start[place]), int(self._start[place + 1]))
        stars: dict[str, int] = {}
        for item, count in zip(self._item_M[rows].tolist(), self._stars_M[rows], strict=True):
            stars.setdefault(self.pool[item], int(count))
        return stars


def join(reviews: Reviews, metas: Metas, *, min_items: int, max_title_words: int) -> Histories:
    """Join the two files. Of an item with two titles that first in the alphabet counts."""
    codes_P, times_P = np.unique(
        reviews.user_N.astype(np.int64) << 32 | reviews.item_N, return_counts=True
    )
    user_P, item_P = codes_P >> 32, codes_P & (2**32 - 1)
    users, items = len(reviews.users), len(reviews.items)
    active_U = np.bincount(user_P, minlength=users) >= min_items
    # Only these items need a title in memory.
    used_I = np.zeros(items, dtype=bool)
    used_I[item_P[active_U[user_P]]] = True
    titled_I, titles = _titles(reviews, metas, used_I, max_title_words)

    titled_P = titled_I[item_P]
    titled_per_U = np.bincount(user_P[titled_P], minlength=users)
    kept_U = titled_per_U >= min_items
    names = {place: reviews.items[place] for place in titles}
    places = sorted(names, key=names.__getitem__)
    rank_I = np.full(items, -1, dtype=np.int64)
    rank_I[places] = np.arange(len(places))

    rows = np.flatnonzero(kept_U[reviews.user_N] & titled_I[reviews.item_N])
    rank_M = rank_I[reviews.item_N[rows]]
    order = np.lexsort((reviews.stars_N[rows], rank_M, reviews.time_N[rows], reviews.user_N[rows]))
    of_user = reviews.user_N[rows][order]
    kept = np.flatnonzero(kept_U)
    start = np.append(np.searchsorted(of_user, kept), of_user.size)
    buyers_I = np.bincount(item_P, minlength=items)
    return Histories(
        users=[reviews.users[int(place)] for place in kept],
        pool=[names[place] for place in places],
        titles={names[place]: titles[place] for place in places},
        popularity={names[place]: int(buyers_I[place]) for place in places},
        active=frozenset(reviews.users[int(place)] for place in np.flatnonzero(active_U)),
        counts=Counts(
            users=users,
            pairs=codes_P.size,
            repeated_pairs=int((times_P > 1).sum()),
            interactions=int(titled_P.sum()),
            titled_users=int((titled_per_U > 0).sum()),
            kept=int(titled_per_U[kept_U].sum()),
        ),
        _start=start,
        _item_M=rank_M[order],
        _stars_M=reviews.stars_N[rows][order],
    )


def _titles(
    reviews: Reviews, metas: Metas, used_I: NDArray[np.bool_], max_words: int
) -> tuple[NDArray[np.bool_], dict[int, str]]:
    """Which items have a title, and the shortened titles of the used ones by their places."""
    place_of = {name: place for place, name in enumerate(reviews.items)}
    titled_I = np.zeros(len(place_of), dtype=bool)
    titles: dict[int, str] = {}
    for name, whole in zip(metas.items, metas.titles, strict=True):
        place = place_of.get(name)
        if place is None:
            continue
        titled_I[place] = True
        if used_I[place]:
            title = shorten(whole, max_words)
            titles[place] = min(title, titles.get(place, title))
    return titled_I, titles
