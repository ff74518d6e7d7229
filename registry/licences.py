"""Whether a benchmark's images may travel with a bundle, small or whole: by an allow-list of open licences; and where their texts are.

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


#: where the texts are: of Creative Commons by what the name says, and others by name
_CREATIVE = (
    (re.compile(r"cc-?(0|zero)(-v?1(\.0)?)?(-universal)?|creative-commons-zero(-v?1(\.0)?)?(-universal)?"), "publicdomain/zero/1.0"),
    (re.compile(rf"(?:cc-by|creative-commons-attribution)-v?(\d\.\d)(-(international|unported|generic|intl))?{_WORD}"), r"licenses/by/\1"),
    (
        re.compile(rf"(?:cc-by-sa|creative-commons-attribution-share-?alike)-v?(\d\.\d)(-(international|unported|generic|intl))?{_WORD}"),
        r"licenses/by-sa/\1",
    ),
)
_SPDX = {"mit": "MIT", "mit-license": "MIT", "apache-2.0": "Apache-2.0", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause"}


@dataclass(frozen=True)
class Terms:
    """A licence by what it lets whoever gets a copy do, as far as its name says.

    Attributes:
        stated: as it is stated.
        open: known here to let anyone use, change and pass on for any purpose.
        noncommercial: limits the purpose (NC).
        no_derivatives: forbids passing on changed copies (ND).
    """

    stated: str
    open: bool
    noncommercial: bool
    no_derivatives: bool


def terms_of(licence: str) -> Terms:
    """What the name of a licence says; all False for one that is not known here, which then has to be read."""
    text = _normalised(licence)
    return Terms(licence.strip(), bool(_OPEN.fullmatch(text)), bool(_NO_COMMERCE.search(text)), bool(_NO_CHANGES.search(text)))


def address_of(licence: str) -> str:
    """Where the text of a licence is; "" for one that is not known here, or whose name leaves out which version it is."""
    text = _normalised(licence)
    if re.fullmatch(r"https?://creativecommons\.org/[a-z0-9./-]*", text):
        return text
    for name, path in _CREATIVE:
        if found := name.fullmatch(text):
            return f"https://creativecommons.org/{found.expand(path)}/"
    return f"https://spdx.org/licenses/{_SPDX[text]}.html" if text in _SPDX else ""


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
    text, terms = _normalised(licence), terms_of(licence)
    stated = terms.stated
    if not text or text in ("not-stated", "unknown", "none"):
        return Permission(False, "the benchmark's card does not state a licence of the images")
    if terms.open:
        return Permission(True, f"`{stated}` lets anyone pass on changed copies")
    if terms.no_derivatives:
        return Permission(False, f"`{stated}` forbids passing on changed copies (ND), and a small picture is one")
    if terms.noncommercial:
        return Permission(False, f"`{stated}` limits the purpose (NC), and a bundle cannot know what it is used for")
    return Permission(False, f"`{stated}` is not among the open licences that are known here (CC0, CC-BY, CC-BY-SA, public domain, MIT, Apache, BSD)")


def _normalised(licence: str) -> str:
    """In small letters, with `-` between words."""
    return re.sub(r"[\s_,-]+", "-", licence.strip().lower()).strip("-.")
