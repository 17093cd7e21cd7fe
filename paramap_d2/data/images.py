"""Image files, looked at without decoding them where that is enough."""

from __future__ import annotations

import os

from PIL import Image, UnidentifiedImageError

from .catalog import DatasetError

__all__ = ["check_image", "image_size"]

_ORIENTATION = 274  # of Exif
_TURNED = (5, 6, 7, 8)  # width and height change places
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of more than 8 bits
_LAST = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # what the files end with


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height, turned as its Exif data says, as Detectron2 reads it.

    Raises:
        DatasetError: not there, or not an image.
    """
    with _opened(path) as image:
        return _size(image)


def check_image(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Raise unless Detectron2 can read the image, and it is of this size.

    The header is read; the pixels alone of a file that does not end as its kind does.

    Raises:
        DatasetError: not there, not an image, cut off, of another size, or of more than 8 bits a channel, which
            Detectron2 would read as white.
    """
    with _opened(path) as image:
        found = _size(image)
        if found != (width, height):
            hint = ""
            if image.size == (width, height):
                hint = ": its Exif data turn it on its side, which the annotations do not know"
            raise DatasetError(f"image {path} is {found[0]} x {found[1]}, and annotated as {width} x {height}{hint}")
        if image.mode in _DEEP:
            raise DatasetError(f"image {path} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
        if not _ends(path, image.format or ""):
            try:
                image.load()
            except Exception as error:  # whatever its decoder raises
                raise DatasetError(f"image {path} cannot be read: {error}") from None


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise DatasetError(f"image {path} does not exist") from None
    except UnidentifiedImageError:
        raise DatasetError(f"{path} is not an image that can be read") from None
    except Exception as error:  # whatever its decoder raises
        raise DatasetError(f"image {path} cannot be read: {error}") from None


def _size(image: Image.Image) -> tuple[int, int]:
    try:
        turned = image.getexif().get(_ORIENTATION) in _TURNED
    except Exception:  # as Detectron2: broken Exif data say nothing
        turned = False
    width, height = image.size
    return (height, width) if turned else (width, height)


def _ends(path: str | os.PathLike[str], kind: str) -> bool:
    if kind not in _LAST:
        return False
    with open(path, "rb") as file:
        file.seek(-min(len(_LAST[kind]), os.fstat(file.fileno()).st_size), os.SEEK_END)
        return file.read() == _LAST[kind]
