"""A text space that holds what language models write.

Gymnasium's own `Text` holds letters and digits only: a space, a newline or an empty string is
outside of it, and a charset of all of Unicode takes seconds to build.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

_SAMPLE_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789 \n\t.,:;?!-_'\"(){}[]<>|/\\éßλ中🙂"
_LONGEST_SAMPLE = 64


class UnicodeText(spaces.Text):
    """Every Unicode string from the empty one up to `max_length` characters.

    A string with a lone surrogate is outside: it has no UTF-8 form, so no tokenizer can read it.
    In an `AsyncVectorEnv` pass `shared_memory=False`; Gymnasium pads shared strings.
    """

    def __init__(
        self, max_length: int = 100_000, *, seed: int | np.random.Generator | None = None
    ) -> None:
        """Make the space.

        Raises:
            ValueError: when `max_length` is negative.
        """
        # Vector environments read the first character of the set; nothing else uses it.
        super().__init__(max_length, min_length=0, charset=_SAMPLE_CHARACTERS, seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string of at most `max_length` characters that UTF-8 can encode."""
        if not isinstance(x, str) or len(x) > self.max_length:
            return False
        try:
            x.encode()
        except UnicodeEncodeError:
            return False
        return True

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random string of letters, spaces, punctuation and some non-ASCII characters.

        Raises:
            ValueError: for a mask: the space has no finite character set to mask.
        """
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText has no character set that a mask could be for")
        length = int(self.np_random.integers(min(self.max_length, _LONGEST_SAMPLE) + 1))
        picks = self.np_random.integers(len(_SAMPLE_CHARACTERS), size=length)
        return "".join(_SAMPLE_CHARACTERS[pick] for pick in picks)

    @property
    def is_np_flattenable(self) -> bool:
        """False: there is no finite character set to number."""
        return False

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"

    def __eq__(self, other: object, /) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length
