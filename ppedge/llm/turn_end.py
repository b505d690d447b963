"""Where an answer would go on with another turn of the chat, it is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ppedge.llm.segments import Segment, Text

if TYPE_CHECKING:
    from ppedge.llm.llm import LLM


class TurnEnd:
    """A logits processor that takes the beginning of a turn for the end of the answer.

    Some plugs were trained with the token that opens a turn in place of the one that closes it, and
    a small model takes one for the other by itself. What the one would get is added to the other.

    Args:
        opens: the token that opens a turn.
        end: the token that ends a text.
    """

    def __init__(self, opens: int, end: int) -> None:
        """Remember both."""
        self._opens, self._end = opens, end

    @classmethod
    def of(cls, llm: LLM, opening: Sequence[Segment]) -> TurnEnd | None:
        """That of a model's chat; None where no control token opens a turn.

        Args:
            llm: the model.
            opening: what every prompt begins with.

        Raises:
            ModelError: the model is closed.
        """
        begin = next((s for s in opening if isinstance(s, Text) and s.text), None)
        if begin is None or not begin.special or llm.end_token is None:
            return None
        opens = llm.tokenize(begin.text, special=True)[0]
        # A control token says nothing.
        return None if llm.piece(opens) or llm.is_end(opens) else cls(opens, llm.end_token)

    def process(self, logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        """Move the one's probability to the other.

        Args:
            logits: float32 [n_vocab]; changed and returned.
            written: not looked at.
        """
        logits[self._end] = np.logaddexp(logits[self._opens], logits[self._end])
        logits[self._opens] = -np.inf
        return logits
