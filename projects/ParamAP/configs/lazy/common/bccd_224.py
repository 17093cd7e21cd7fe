# Blood cells at 224 pixels, for detectors that begin with ImageNet weights.
from .bccd import dataloader, lr_multiplier, optimizer, train  # noqa: F401

dataloader.train.mapper.augmentations[0].short_edge_length = [224]
dataloader.train.mapper.augmentations[0].max_size = 320
dataloader.test.mapper.augmentations[0].short_edge_length = 224
dataloader.test.mapper.augmentations[0].max_size = 320
train.max_iter = 1500
proxy = dict(opts=["train.max_iter=150"])
