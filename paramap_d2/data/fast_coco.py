"""COCO's figures by the package faster-coco-eval: the same in a tenth of the time, without a compiled Detectron2."""

from __future__ import annotations

from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


class _OfNamedImages(COCOeval_faster):
    """It takes images by number alone; names, as in VOC form, are numbered here in the order in which pycocotools takes
    them, so that detections of equal score stay in theirs."""

    def __init__(self, truth: COCO, found: COCO, task: str):
        self._number = {image: number for number, image in enumerate(sorted(truth.getImgIds()), start=1)}
        super().__init__(*(_renumbered(coco, self._number) for coco in (truth, found)), task)

    def evaluate(self) -> None:
        number = self._number | {n: n for n in self._number.values()}  # as it was made, or named by who uses it
        self.params.imgIds = [number[image] for image in self.params.imgIds if image in number]
        super().evaluate()


def _renumbered(coco: COCO, number: dict[str, int]) -> COCO:
    items = [item for item in coco.dataset["annotations"] if item["image_id"] in number]
    other = COCO()
    other.dataset = {
        **coco.dataset,
        "images": [{**image, "id": number[image["id"]]} for image in coco.dataset["images"]],
        "annotations": [{**item, "image_id": number[item["image_id"]]} for item in items],
    }
    other.createIndex()
    return other


def fast_coco_eval(truth: COCO, found: COCO, task: str) -> COCOeval:
    """An evaluator of the same figures in a tenth of the time, but where it knows no way: keypoints, odd image ids."""
    kinds = {type(image) for image in truth.getImgIds()}
    fast = {(int,): COCOeval_faster, (str,): _OfNamedImages}.get(tuple(kinds), COCOeval)
    return (COCOeval if task == "keypoints" else fast)(truth, found, task)
