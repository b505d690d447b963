"""What a client is told when something is wrong: OpenAI's shape, one clear line."""

from __future__ import annotations

import sys
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ppedge.errors import PpedgeError, StoreError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "overloaded_error",
}


class ApiError(Exception):
    """A request that is refused, and why.

    Attributes:
        status: HTTP status code.
        message: one line: what was wrong, and what to do.
        param: the field or parameter that is to blame, if it is one.
        code: a word for programs.
        retry_after: seconds after which it is worth another try.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Keep what is to be told."""
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code, self.retry_after = param, code, retry_after

    @property
    def body(self) -> dict[str, object]:
        """The body of the response."""
        kind = "server_error" if self.status == 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """The whole response."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def bad(message: str, param: str | None = None) -> ApiError:
    """A request that makes no sense as it is."""
    return ApiError(400, message, param=param)


def as_api_error(error: Exception) -> ApiError:
    """What to tell of an error; one that ppedge did not raise on purpose tells nothing."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, StoreError):
        # Such as another process that is changing the store, or a full disk.
        return ApiError(409, str(error), code="store_error")
    if isinstance(error, PpedgeError):
        return ApiError(500, str(error))
    note_down(error)
    return ApiError(500, "ppedge failed inside; what it wrote on its terminal says where")


def note_down(error: BaseException) -> None:
    """Tell the terminal where an unexpected error came from, and nothing of what was asked."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
    print(
        f"ppedge: inner error at {where}: {type(error).__name__}; please report this",
        file=sys.stderr,
        flush=True,
    )


async def on_error(request: Request, error: Exception) -> Response:
    """Respond to what an endpoint raised."""
    return as_api_error(error).response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Respond where no route fits."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    told = {
        404: f"there is no {path}; /openapi.json lists what there is",
        405: f"{path} takes no {request.method}; /openapi.json lists what it takes",
    }
    refused = ApiError(error.status_code, told.get(error.status_code, error.detail))
    response = refused.response()
    response.headers.update(error.headers or {})
    return response
