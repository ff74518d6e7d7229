"""Whether small pictures of a benchmark's images may travel with a bundle: by an allow-list of open licences.

A bundle goes to whoever fetches it and its pictures to whoever asks a service, for a purpose that neither knows. So a licence must let
anyone pass on changed copies for any purpose. Licences that forbid changes (ND: a small picture is one) or limit the purpose (NC), and those
that are not known here, do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERSION = r"(-v?\d(\.\d)?)?"
_PLACE = r"(-(international|unported|universal|generic|intl|[a-z]{2,3}))?"
_WORD = r"(-licen[cs]e)?"
#: licences as people write them, in small letters with `-` between words
_OPEN = re.compile(
    "|".join(
        (
            rf"cc-?0{_VERSION}{_PLACE}",
            rf"cc-zero{_VERSION}{_PLACE}",
            rf"(cc-)?pd(m|dl)?{_VERSION}",
            rf"(cc-)?public-domain(-mark)?{_VERSION}",
            rf"cc-by(-sa)?{_VERSION}{_PLACE}{_WORD}",
            rf"creative-commons-zero{_VERSION}{_PLACE}{_WORD}",
            rf"creative-commons-attribution(-share-?alike)?{_VERSION}{_PLACE}{_WORD}",
            r"https?://creativecommons\.org/(licenses/by(-sa)?/\d\.\d|publicdomain/(zero|mark)/1\.0)(/[a-z.]*)*",
            rf"mit{_WORD}",
            rf"apache{_WORD}{_VERSION}",
            rf"bsd(-[0234]-clause)?{_WORD}",
        )
    )
)
_NO_CHANGES = re.compile(r"(^|[-/])nd([-/.]|$)|no-?deriv")
_NO_COMMERCE = re.compile(r"(^|[-/])nc([-/.]|$)|non-?commercial")


@dataclass(frozen=True)
class Permission:
    """What a licence says about passing on small pictures.

    Attributes:
        allowed: whether they may travel.
        reason: a clause that completes "there are no pictures: ..." or "pictures travel: ...".
    """

    allowed: bool
    reason: str


def may_pass_on(licence: str) -> Permission:
    """Whether small pictures made from images under `licence` may travel with a bundle.

    Args:
        licence: as a benchmark's card states it: an SPDX name (`CC-BY-4.0`), the usual words, or a Creative Commons address.
    """
    stated = licence.strip()
    text = re.sub(r"[\s_,-]+", "-", stated.lower()).strip("-.")
    if not text or text in ("not-stated", "unknown", "none"):
        return Permission(False, "the benchmark's card does not state a licence of the images")
    if _OPEN.fullmatch(text):
        return Permission(True, f"`{stated}` lets anyone pass on changed copies")
    if _NO_CHANGES.search(text):
        return Permission(False, f"`{stated}` forbids passing on changed copies (ND), and a small picture is one")
    if _NO_COMMERCE.search(text):
        return Permission(False, f"`{stated}` limits the purpose (NC), and a bundle cannot know what it is used for")
    return Permission(False, f"`{stated}` is not among the open licences that are known here (CC0, CC-BY, CC-BY-SA, public domain, MIT, Apache, BSD)")
