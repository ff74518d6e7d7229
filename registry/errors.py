"""Every error the product raises on purpose.

::

    BlankslideError
    |-- InputError            what came from outside is not what was expected
    |   |-- ImageError        one image cannot be used
    |   |-- BenchmarkError    an index, card, table or split cannot be used
    |   |-- ParamsError       params.yaml or a command line cannot be used
    |   `-- CardError         an encoder card contradicts itself
    |-- NotFoundError         a name that is not in a catalogue (lists what is)
    |-- HubUnreachableError   a remote hub or bucket does not answer
    |-- BundleError           a bundle is incomplete, altered or not data-only
    |-- ParityError           an exported model does not compute what its source computes
    |-- StoreError            the tracking store refused or lost something
    |-- GateRefusedError      a promotion the evidence does not carry
    |-- SomeFailedError       some images could not be used; what could be done with the others is done
    `-- ProviderError         a device or execution provider that was asked for is not there

A message says what was expected, what came and the next step, in full sentences with names in backticks.
"""

from __future__ import annotations

from collections.abc import Iterable


class BlankslideError(Exception):
    """Base of all errors raised on purpose; the command line prints it without a traceback and exits 2."""


class InputError(BlankslideError):
    """Something from outside is not what was expected."""


class ImageError(InputError):
    """One image cannot be used."""


class BenchmarkError(InputError):
    """An index, card, table or split cannot be used."""


class ParamsError(InputError):
    """Parameters or a command line cannot be used."""


class CardError(InputError):
    """An encoder card contradicts itself."""


class NotFoundError(BlankslideError):
    """A name that is not in a catalogue.

    Args:
        kind: what was looked up, as a noun ("encoder").
        name: the name that was asked for.
        known: the names there are.
        reason: why it is not there, as a clause, where more is to be said than that.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], reason: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        listing = ", ".join(f"`{k}`" for k in self.known) or "none"
        super().__init__(f"There is no {kind} `{name}`{f': {reason}' if reason else ''}. Known: {listing}.")


class HubUnreachableError(BlankslideError):
    """A remote hub or bucket does not answer."""


class BundleError(BlankslideError):
    """A bundle is incomplete, altered or not data-only."""


class ParityError(BlankslideError):
    """An exported model does not compute what its source computes."""


class StoreError(BlankslideError):
    """The tracking store refused or lost something."""


class GateRefusedError(BlankslideError):
    """A promotion the evidence does not carry."""


class SomeFailedError(BlankslideError):
    """Some images could not be used; what could be done with the others is done and written."""


class ProviderError(BlankslideError):
    """A device or execution provider that was asked for is not there."""
