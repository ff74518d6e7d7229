"""What can go wrong between a request and its answer, and the HTTP status of each error: one table."""

from __future__ import annotations

from http import HTTPStatus

from registry.errors import BlankslideError, BundleError, ImageError, InputError, NotFoundError, ProviderError


class BodyTooLargeError(InputError):
    """A request's body is larger than the service accepts."""


class BodyKindError(InputError):
    """A request's body is encoded or wrapped in a way that is not read."""


class BodyTimeoutError(InputError):
    """A request's body did not arrive in time."""


class HeadersTooLargeError(InputError):
    """A request's headers are larger than the service accepts."""


class HeadersTimeoutError(InputError):
    """A request's headers did not arrive in time."""


class OverloadedError(BlankslideError):
    """The service has as much to do as it takes; the same request may succeed in a moment."""


class TooSlowError(BlankslideError):
    """A request was taken and not answered in time."""


class UnauthorizedError(InputError):
    """A request without the service's token, or with another."""


class MisdirectedError(InputError):
    """A request under a name that is not this machine's, to a service that asks for no token."""


class AcceptError(InputError):
    """An answer was asked for in a form that there is not."""


class ServiceError(BlankslideError):
    """A service refused a request or does not answer; raised by the client.

    Args:
        message: the service's own words.
        status: HTTP status, 0 where there was no answer.
        kind: class of the error as the service names it, or of the connection's; "" where neither says.
        request_id: under which the service's log has the request; "" where the error is one image's of several.
    """

    def __init__(self, message: str, status: int, kind: str = "", request_id: str = "") -> None:
        self.status, self.kind, self.request_id = status, kind, request_id
        super().__init__(message)


#: the nearest class in an error's own line of descent decides
STATUS: dict[type[BlankslideError], HTTPStatus] = {
    ImageError: HTTPStatus.UNPROCESSABLE_ENTITY,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    BodyKindError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    BodyTimeoutError: HTTPStatus.REQUEST_TIMEOUT,
    HeadersTooLargeError: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HeadersTimeoutError: HTTPStatus.REQUEST_TIMEOUT,
    UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    MisdirectedError: HTTPStatus.MISDIRECTED_REQUEST,
    AcceptError: HTTPStatus.NOT_ACCEPTABLE,
    OverloadedError: HTTPStatus.TOO_MANY_REQUESTS,
    TooSlowError: HTTPStatus.SERVICE_UNAVAILABLE,
    InputError: HTTPStatus.BAD_REQUEST,
    NotFoundError: HTTPStatus.NOT_FOUND,
    BundleError: HTTPStatus.INTERNAL_SERVER_ERROR,
    ProviderError: HTTPStatus.SERVICE_UNAVAILABLE,
    BlankslideError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def status_of(error: BlankslideError) -> HTTPStatus:
    """HTTP status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
