"""What a file says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says of itself.

    `width` and `height` are in pixels as stored; `orientation` is the EXIF tag 274 (1 to 8). A viewer shows
    `display_size`, which is what is scored.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    defect: str = ""  # why the pixels are known to be incomplete or damaged, although the header can be read

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) after the EXIF orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)
