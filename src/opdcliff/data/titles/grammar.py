"""Made-up item titles: a small grammar with the uneven grain of real ones.

A title is a brand, perhaps an audience, and a pile of search words, as shops write them, in which
each phrase has a few that may follow it. Inside a fixed phrase the next word is all but certain,
behind a word of the pile the title goes on or ends with a chance that depends on what the word is,
and a size in brackets is an end for certain: so the modal mass of "the title goes on" differs from
position to position, which is what data=titles is for. Commas, ampersands, inch marks (which JSON
escapes) and letters beyond ASCII occur as they do in shops. No word of it is anybody's listing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_Draw = np.random.Generator

_STARTS = ("Al", "Be", "Cor", "Dan", "Ev", "Fel", "Gri", "Hal", "Jo", "Kal", "Lu", "Mir", "Nor")
_MIDDLES = ("a", "e", "i", "o", "an", "el", "in", "or")
_ENDS = ("bo", "dine", "fer", "lis", "mont", "na", "rik", "sa", "tex", "vale", "wear", "zan")
_HOUSES = ("& Sons", "& Finch", "Atelier", "Caf\u00e9", "M\u00f6bel", "Ni\u00f1os", "Co.")
_BRANDS = 60
_AUDIENCES = ("Women's", "Men's", "Girls'", "Boys'", "Unisex", "Womens")

# Kinds of words of the pile: share among them, chance that the title ends behind one, phrases.
_KINDS: dict[str, tuple[float, float, tuple[str, ...]]] = {
    "quality": (0.30, 0.03, (
        *("Soft", "Casual", "Vintage", "Slim Fit", "Loose Fit", "Plus Size", "High Waisted"),
        *("Lightweight", "Quick Dry", "Non Slip", "Sheer", "Classic", "Warm", "Cute", "Boho"),
        *("Stretchy", "Handmade", "Waterproof", "Elegant", "Oversized", "Thick", "Retro"),
    )),
    "look": (0.17, 0.06, (
        *("Striped", "Floral Print", "Plaid", "Polka Dot", "Paisley", "Tie Dye", "V Neck"),
        *("Crew Neck", "Long Sleeve", "Short Sleeve", "Open Front", "Lace Trim", "Cr\u00eape"),
        *("Cotton", "Linen", "Denim", "Faux Leather", "Wool", "Silver Plated", "Chiffon"),
    )),
    "item": (0.30, 0.17, (
        *("Dress", "Cardigan", "T-Shirt", "Hoodie", "Tank Top", "Pants", "Jacket", "Boots"),
        *("Sandals", "Necklace", "Bracelet", "Watch Band", "Belt", "Scarf", "Beanie Hat"),
        *("Bag", "Wallet", "Socks", "Blouse", "Sweater", "Pullover", "Tunic Tops", "Leggings"),
    )),
    "use": (0.14, 0.24, (
        *("for Women", "for Men", "for Girls & Boys", "with Pockets", "with Hood", "with Zipper"),
        *("Gift", "Party", "Beach", "Workout", "Fall Winter", "Summer", "Wedding", "Travel"),
    )),
    "colour": (0.09, 0.45, (
        *("Black", "White", "Navy Blue", "Dark Green", "Rose Gold", "Grey", "Burgundy", "Beige"),
        *("Ros\u00e9", "Coffee", "Wine Red", "Multicolor"),
    )),
}  # fmt: skip
_LETTERS = ("S", "M", "L", "X-Large", "XX-Large", "Small", "Medium", "Large", "One Size")
_BRACKETS = 0.12
# Chances of the phrases that may follow one. Few, as in real text: where hundreds of tokens share
# the mass, a hard clip on pi_T/pi_S loses them one by one; the text went to pieces at lambda = 1.3
# (docs/reproduction.md, "Negative results").
_FOLLOW = (0.5, 0.25, 0.15, 0.1)
# Next to never met: a pile that had to end by some word would make long titles end for certain.
_MOST_PHRASES = 60


def compose(seed: int, count: int) -> tuple[str, ...]:
    """`count` distinct titles of 2 to some 100 words, 16 on average, deterministic in `seed`."""
    rng = np.random.default_rng([seed, count])
    brands, followers = _brands(rng), _followers(rng)
    # A few brands make most of the titles, as in a shop.
    weights = 1.0 / np.arange(1, len(brands) + 1)
    found: dict[str, None] = {}
    while len(found) < count:
        brand = brands[int(rng.choice(len(brands), p=weights / weights.sum()))]
        found[_title(rng, brand, followers)] = None
    return tuple(found)


def _brands(rng: _Draw) -> Sequence[str]:
    found: dict[str, None] = {}
    while len(found) < _BRANDS:
        name = _one(rng, _STARTS) + _one(rng, _MIDDLES) + _one(rng, _ENDS)
        name = f"{name} {_one(rng, _HOUSES)}" if rng.random() < 0.15 else name
        found[name.upper() if rng.random() < 0.25 else name] = None
    return tuple(found)


def _followers(rng: _Draw) -> dict[str, Sequence[tuple[str, str]]]:
    """For each phrase, and for the start (""), as many (kind, phrase) as `_FOLLOW` has chances."""
    kinds = list(_KINDS)
    shares = np.array([share for share, _, _ in _KINDS.values()])
    phrases = [phrase for _, _, own in _KINDS.values() for phrase in own]
    drawn = {
        phrase: [kinds[int(i)] for i in rng.choice(len(kinds), size=len(_FOLLOW), p=shares)]
        for phrase in ["", *phrases]
    }
    return {
        phrase: [(kind, _one(rng, _KINDS[kind][2])) for kind in own]
        for phrase, own in drawn.items()
    }


def _title(rng: _Draw, brand: str, followers: dict[str, Sequence[tuple[str, str]]]) -> str:
    parts = [brand, *([_one(rng, _AUDIENCES)] if rng.random() < 0.5 else [])]
    named, phrase = False, ""
    for _ in range(_MOST_PHRASES):
        kind, phrase = followers[phrase][int(rng.choice(len(_FOLLOW), p=_FOLLOW))]
        ends = _KINDS[kind][1]
        parts.append(phrase)
        named = named or kind == "item"
        if named and rng.random() < ends:
            break
        if rng.random() < 0.06:
            parts[-1] += ","
    if rng.random() < _BRACKETS:
        parts.append(f"({_size(rng)}, {_one(rng, _KINDS['colour'][2])})")
    return " ".join(parts).removesuffix(",")


def _size(rng: _Draw) -> str:
    return f'{rng.integers(6, 40)}"' if rng.random() < 0.3 else _one(rng, _LETTERS)


def _one(rng: _Draw, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]
