"""An allow-list: what is not known to be open is not."""

from __future__ import annotations

import pytest

from registry.licences import address_of, may_pass_on, terms_of


@pytest.mark.parametrize(
    "licence",
    [
        "CC0-1.0",
        "CC0",
        "CC0 1.0 Universal",
        "cc-zero",
        "Public Domain",
        "CC BY 4.0",
        "CC-BY-4.0",
        "CC-BY",
        "CC BY-SA 3.0",
        "CC-BY 4.0 International",
        "Creative Commons Attribution 4.0 International",
        "Creative Commons Attribution-ShareAlike 4.0 International License",
        "https://creativecommons.org/licenses/by/4.0/",
        "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
        "http://creativecommons.org/publicdomain/zero/1.0/",
        "MIT",
        "MIT License",
        "Apache-2.0",
        "Apache License, Version 2.0".replace(", Version", ""),
        "BSD-3-Clause",
        " cc_by_4.0 ",
    ],
)
def test_open_licences_allow_pictures(licence: str) -> None:
    assert may_pass_on(licence).allowed


@pytest.mark.parametrize(
    ("licence", "words"),
    [
        ("not stated", "does not state"),
        ("", "does not state"),
        ("  ", "does not state"),
        ("unknown", "does not state"),
        ("CC BY-NC-ND 4.0", "changed copies"),
        ("CC-BY-ND-4.0", "changed copies"),
        ("Creative Commons Attribution-NoDerivatives 4.0", "changed copies"),
        ("https://creativecommons.org/licenses/by-nd/4.0/", "changed copies"),
        ("CC-BY-NC-4.0", "limits the purpose"),
        ("CC BY-NC-SA 3.0", "limits the purpose"),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "limits the purpose"),
        ("Attribution-NonCommercial", "limits the purpose"),
        ("GPL (of the package that carries the images)", "not among the open licences"),
        ("CC-BY-4.0 for the labels", "not among the open licences"),
        ("all rights reserved", "not among the open licences"),
        ("not MIT", "not among the open licences"),
        ("non-public-domain", "not among the open licences"),
        ("for research only", "not among the open licences"),
    ],
)
def test_others_do_not_and_say_why(licence: str, words: str) -> None:
    found = may_pass_on(licence)
    assert not found.allowed
    assert words in found.reason


@pytest.mark.parametrize(
    ("licence", "flags"),
    [
        ("Apache-2.0", (True, False, False)),
        ("CC-BY-4.0", (True, False, False)),
        ("CC BY-NC-ND 4.0", (False, True, True)),
        ("cc-by-nc-sa-4.0", (False, True, False)),
        ("CC BY-ND 4.0", (False, False, True)),
        ("a licence of our own", (False, False, False)),
        ("", (False, False, False)),
    ],
)
def test_terms(licence: str, flags: tuple[bool, bool, bool]) -> None:
    terms = terms_of(licence)
    assert (terms.open, terms.noncommercial, terms.no_derivatives) == flags


@pytest.mark.parametrize(
    ("licence", "address"),
    [
        ("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC0 1.0 Universal", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
        ("CC-BY 4.0 International", "https://creativecommons.org/licenses/by/4.0/"),
        ("Creative Commons Attribution 4.0 International License", "https://creativecommons.org/licenses/by/4.0/"),
        ("CC-BY-SA-3.0", "https://creativecommons.org/licenses/by-sa/3.0/"),
        ("https://creativecommons.org/licenses/by-sa/4.0/legalcode", "https://creativecommons.org/licenses/by-sa/4.0/legalcode"),
        ("MIT License", "https://spdx.org/licenses/MIT.html"),
        ("Apache-2.0", "https://spdx.org/licenses/Apache-2.0.html"),
        # which version, or of which country, is not said, or its text is not of these
        ("CC-BY", ""),
        ("CC BY 3.0 US", ""),
        ("Public Domain", ""),
        ("CC-BY-NC-4.0", ""),
        ("not stated", ""),
        ("", ""),
        # nothing gets out of the angle brackets of a header
        ('https://creativecommons.org/>; rel="x"', ""),
        ("https://creativecommons.org/licenses/by/4.0/\r\nX: y", ""),
        ("CC-BY-4.0\nX: y", ""),
    ],
)
def test_where_the_text_of_a_licence_is(licence: str, address: str) -> None:
    assert address_of(licence) == address
