"""The loss in torchvision's RetinaNet: a detector that knows nothing of Detectron2.

python torchvision_detector.py
"""

import torch
from torchvision.models.detection import retinanet_resnet50_fpn

from paramap_d2.losses import ParameterizedAPLoss, box_quality, load_loss


def with_param_ap(model, loss="retinanet-coco"):
    """The same detector; its two losses are the two terms of this one."""
    head = load_loss(loss)["dense"]
    loss_fn = ParameterizedAPLoss(head.functions, grad_scale=head.grad_scale)

    def compute_loss(targets, outputs, anchors, matched):
        logits, deltas = outputs["cls_logits"], outputs["bbox_regression"]  # (N, A, C), (N, A, 4)
        scores, positives, quality = [], [], []
        for n, (target, match) in enumerate(zip(targets, matched, strict=True)):
            at = (match >= 0).nonzero().squeeze(1)  # −1: background; −2: neither, takes no part
            labels, truth = target["labels"][match[at]], target["boxes"][match[at]]
            boxes = model.box_coder.decode_single(deltas[n, at], anchors[n][at])
            scores.append(logits[n].masked_fill((match == -2)[:, None], -torch.inf).flatten())
            positives.append((n * len(match) + at) * logits.shape[2] + labels)
            quality.append(box_quality(boxes, truth))
        terms = loss_fn.terms(torch.cat(scores), torch.cat(positives), torch.cat(quality))
        return {"classification": terms.ranking, "bbox_regression": terms.localization}

    model.head.compute_loss = compute_loss
    model.score_thresh = 0.0  # no score of a ranking loss is low in itself
    return model


if __name__ == "__main__":
    model = with_param_ap(retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3))
    targets = [{"boxes": torch.tensor([[20.0, 20, 90, 90]]), "labels": torch.tensor([1])}]
    print(model.train()([torch.rand(3, 128, 128)], targets))
