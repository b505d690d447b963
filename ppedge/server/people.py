"""Personas by name, as a client sees them: the part of a model's name behind a colon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ppedge.defaults import profiles
from ppedge.errors import StoreError
from ppedge.personalizer import Personalizer
from ppedge.server.errors import ApiError
from ppedge.store.opening import is_made
from ppedge.store.persona import Persona
from ppedge.store.scope import Scope

BARE: Final = "ppedge"
ALL: Final = Scope()


def model_name(persona: str | None) -> str:
    """The model's name of a persona; None is the bare model."""
    return BARE if persona is None else f"{BARE}:{persona}"


def persona_name(model: str) -> str | None:
    """The persona of a model's name; None is the bare model.

    Raises:
        ApiError: 404; it is not a name of this server's.
    """
    base, colon, name = model.partition(":")
    if base != BARE or (colon and not name):
        raise ApiError(
            404,
            f"no model of that name; `{BARE}` is the bare one, `{BARE}:NAME` writes as persona "
            "NAME, and /v1/models lists them",
            param="model",
            code="model_not_found",
        )
    return name or None


class People:
    """The personas of this server's owner, opened for one request at a time.

    Args:
        personalizer: whose plug they belong to.
    """

    def __init__(self, personalizer: Personalizer) -> None:
        """Open none."""
        self._personalizer = personalizer

    def names(self) -> list[str]:
        """All of them, in order.

        Raises:
            StoreError: their folder cannot be read.
        """
        return profiles().names()

    @contextmanager
    def opened(self, name: str, scope: Scope = ALL) -> Iterator[Persona]:
        """One persona's notes.

        Args:
            name: of the persona.
            scope: which of its notes; any but `ALL` gives a view for reading only.

        Raises:
            ApiError: 404, if there is none of that name; 409, if it never had a note, or has none
                in the scope.
            StoreError: it cannot be opened.
        """
        try:
            folder = profiles().existing(name)
        except StoreError as error:
            raise ApiError(404, str(error), param="model", code="model_not_found") from None
        if not is_made(folder):
            # Opening would make a store, and for this very plug.
            raise ApiError(
                409,
                f'persona "{name}" has no notes yet; `ppedge notes add` takes some',
                code="no_notes",
            )
        with self._personalizer.persona(folder, create=False) as persona:
            if scope.is_all:
                yield persona
                return
            view = persona.scoped(scope)
            if not len(view):
                raise ApiError(409, f'no note of "{name}" is in that scope', code="no_notes")
            yield view
