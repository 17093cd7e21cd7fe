"""SSD's augmentation (Liu et al., ECCV 2016) as Detectron2 augmentations, and the mapper that applies it.

In order: colour distortion, expansion onto a larger ground, a random crop constrained by its overlap with the
objects, resizing, flipping. An object stays if its centre lies in the crop. Objects marked `iscrowd` neither
constrain the crop nor reach the model, as Detectron2 has it.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from fvcore.transforms.transform import NoOpTransform, PadTransform, Transform

from .catalog import DatasetError

__all__ = ["Expand", "MinIoUCrop", "SSDMapper", "build_train_mapper", "color_distortion", "ssd_augmentations"]

logger = logging.getLogger(f"detectron2.{__name__}")  # what default_setup shows and puts into log.txt


class _PadWithColor(PadTransform):
    """Padding with one value a channel, which numpy's `pad` does not offer; the rest is fvcore's."""

    def __init__(self, x0: int, y0: int, x1: int, y1: int, orig_w: int, orig_h: int, color: Sequence[float]):
        super().__init__(x0, y0, x1, y1, orig_w, orig_h)
        self.color = color

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        height, width = img.shape[:2]
        shape = (height + self.y0 + self.y1, width + self.x0 + self.x1) + img.shape[2:]
        color = np.asarray(self.color)
        padded = np.empty(shape, img.dtype)
        padded[...] = np.rint(color) if img.dtype == np.uint8 else color
        padded[self.y0 : self.y0 + height, self.x0 : self.x0 + width] = img
        return padded


class Expand(T.Augmentation):
    """Put the image at a random place on a ground of one colour, larger by a random factor.

    Masks and semantic segmentation are 0 on the new ground.
    """

    def __init__(
        self,
        ratio: tuple[float, float] = (1.0, 4.0),
        color: Sequence[float] = (103.53, 116.28, 123.675),
        prob: float = 0.5,
    ):
        """
        Args:
            ratio: least and greatest factor of both sides; at least 1.
            color: of the ground, one value a channel of the image as it is read (here the mean of ImageNet,
                BGR, 0 to 255).
            prob: probability of expanding at all.

        Raises:
            ValueError: a ratio below 1 or out of order, or a probability outside [0, 1].
        """
        ratio, color = tuple(ratio), tuple(color)
        if not 1 <= ratio[0] <= ratio[1]:
            raise ValueError(f"Expand: ratio must be (low, high) with 1 <= low <= high, not {ratio}")
        if not 0 <= prob <= 1:
            raise ValueError(f"Expand: prob must lie in [0, 1], not {prob}")
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        ratio = self._rand_range(*self.ratio)
        extra_w, extra_h = int(width * ratio) - width, int(height * ratio) - height
        x0, y0 = int(self._rand_range(0, extra_w + 1)), int(self._rand_range(0, extra_h + 1))
        return _PadWithColor(x0, y0, extra_w - x0, extra_h - y0, width, height, self.color)


class MinIoUCrop(T.MinIoURandomCrop):
    """Detectron2's IoU-constrained random crop, made safe for every image.

    At random: no crop, any crop, or one whose IoU with every object is at least 0.1, 0.3, 0.5, 0.7 or 0.9; up
    to 50 tries for each, sides of at least 0.3 of the image's. Where Detectron2's finds no crop, or by its
    rounding leaves every object's centre outside, the image is left as it is.
    """

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        """
        Args:
            image: (H, W, C).
            boxes: (N, 4) float, XYXY in pixels; None does not crop.
        """
        crop = super().get_transform(image, boxes)
        if crop is None:
            return NoOpTransform()
        if isinstance(crop, T.CropTransform) and len(boxes):
            moved = boxes - [crop.x0, crop.y0, crop.x0, crop.y0]
            if not _centre_inside(moved, (crop.h, crop.w)).any():
                return NoOpTransform()
        return crop


def _centre_inside(boxes: np.ndarray, image_shape: tuple[int, int]) -> np.ndarray:
    """(N,) bool: the centre of the box, (N, 4) XYXY, lies in an image of (height, width)."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    height, width = image_shape
    return (x >= 0) & (x <= width) & (y >= 0) & (y <= height)


FORMATS = ("BGR", "RGB", "L")
"""Image formats (`INPUT.FORMAT`) that the colour distortion knows."""


def check_format(image_format: str) -> None:
    """
    Raises:
        DatasetError: SSD's augmentation cannot distort images of this format.
    """
    if image_format not in FORMATS:
        raise DatasetError(f"SSD's augmentation is for images of INPUT.FORMAT BGR, RGB or L, not {image_format}")


def color_distortion(image_format: str) -> list[T.Augmentation | Transform]:
    """SSD's colour distortion: Detectron2's own where OpenCV is installed, which it needs.

    Otherwise brightness, contrast and saturation by factors, without the shift of hue; of grey images brightness and
    contrast.

    Args:
        image_format: "BGR", "RGB" or "L", `INPUT.FORMAT`.

    Raises:
        DatasetError: another format.
    """
    check_format(image_format)
    brightness = T.RandomApply(T.RandomBrightness(0.75, 1.25), prob=0.5)
    contrast = T.RandomApply(T.RandomContrast(0.5, 1.5), prob=0.5)
    if image_format == "L":
        return [brightness, contrast]
    if importlib.util.find_spec("cv2") is not None:
        from detectron2.projects.point_rend import ColorAugSSDTransform

        return [ColorAugSSDTransform(img_format=image_format)]
    logger.warning(
        "SSD's colour distortion leaves hue as it is, and shifts no brightness, without OpenCV: "
        "pip install 'paramap_d2[opencv]'"
    )
    return [brightness, contrast, T.RandomApply(T.RandomSaturation(0.5, 1.5), prob=0.5)]


def ssd_augmentations(
    image_format: str = "BGR",
    color: Sequence[float] = (103.53, 116.28, 123.675),
    then: Sequence[T.Augmentation | Transform] = (),
) -> list[T.Augmentation | Transform]:
    """The list for `SSDMapper`: colour distortion, expansion, crop, then resizing and flipping as given.

    Args:
        image_format: `INPUT.FORMAT`.
        color: of the expanded ground, usually `MODEL.PIXEL_MEAN`.
        then: what follows the crop.
    """
    if image_format == "L" and len(color) > 1:  # as many means as the backbone has channels
        color = (sum(color) / len(color),)
    return [*color_distortion(image_format), Expand(color=color), MinIoUCrop(), *then]


class SSDMapper(DatasetMapper):
    """DatasetMapper whose augmentations see the boxes, and which drops objects whose centre is cut off.

    The stock mapper gives its augmentations the image alone. Masks, keypoints and what remains of the boxes
    are transformed by the stock code. Polygons are cut by `shapely`, which fvcore's crop imports.

    From a config: `INPUT.SSD_SIZE` > 0 resizes to a square of that side, whatever the image's shape; 0 (or no
    such key) resizes as `INPUT.MIN_SIZE_TRAIN` says. From Python: the arguments of DatasetMapper.
    """

    @configurable
    def __init__(self, is_train: bool, **kwargs: Any):
        """
        Raises:
            DatasetError: polygons are to be cut and `shapely` is not installed.
        """
        super().__init__(is_train, **kwargs)
        if is_train and self.use_instance_mask and importlib.util.find_spec("shapely") is None:
            raise DatasetError("cropping instance masks needs shapely: pip install 'paramap_d2[masks]'")

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        arguments = super().from_config(cfg, is_train)
        if is_train:
            size = cfg.INPUT.get("SSD_SIZE", 0)
            then = detection_utils.build_augmentation(cfg, is_train)
            if size > 0:
                then[0] = T.Resize((size, size))
            arguments["augmentations"] = ssd_augmentations(cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, then)
            arguments["recompute_boxes"] = cfg.MODEL.MASK_ON
        return arguments

    def __call__(self, dataset_dict: dict) -> dict:
        boxes = [
            BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS)
            for item in dataset_dict.get("annotations", ())
            if not item.get("iscrowd", 0)
        ]

        found = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        found = found[(found[:, 2:] > found[:, :2]).all(axis=1)]  # the others are no objects, and in no crop

        def augment(aug_input: T.AugInput) -> T.TransformList:
            aug_input.boxes = found.copy()
            return self.augmentations(aug_input)

        # The stock method makes its own AugInput and calls `self.augmentations` with it: on a copy, this
        # call's boxes join it there, and nothing is shared between calls.
        mapper = copy.copy(self)
        mapper.augmentations = augment
        return super(SSDMapper, mapper).__call__(dataset_dict)

    def _transform_annotations(
        self, dataset_dict: dict, transforms: T.TransformList, image_shape: tuple[int, int]
    ) -> None:
        def kept(item: dict) -> bool:
            box = BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS)
            moved = transforms.apply_box(np.array([box], dtype=np.float64))
            return not item.get("iscrowd", 0) and bool(_centre_inside(moved, image_shape)[0])

        dataset_dict["annotations"] = [item for item in dataset_dict["annotations"] if kept(item)]
        if dataset_dict["annotations"]:
            super()._transform_annotations(dataset_dict, transforms, image_shape)
        else:  # the stock code recomputes boxes from masks, of which there are none
            del dataset_dict["annotations"]
            dataset_dict["instances"] = detection_utils.annotations_to_instances([], image_shape)


def build_train_mapper(cfg: CfgNode) -> DatasetMapper:
    """For `build_detection_train_loader`: SSDMapper with `INPUT.SSD_AUGMENTATION`, else the stock mapper."""
    return (SSDMapper if cfg.INPUT.get("SSD_AUGMENTATION", False) else DatasetMapper)(cfg, True)
