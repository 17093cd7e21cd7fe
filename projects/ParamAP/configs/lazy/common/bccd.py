# Blood cells at 192 pixels.
from .small_training import dataloader, lr_multiplier, optimizer, train  # noqa: F401

dataloader.train.dataset.names = "bccd_train"
dataloader.train.mapper.augmentations[0].short_edge_length = [192]
dataloader.train.mapper.augmentations[0].max_size = 256
dataloader.train.total_batch_size = 4
dataloader.test.dataset.names = "bccd_val"
dataloader.test.mapper.augmentations[0].short_edge_length = 192
dataloader.test.mapper.augmentations[0].max_size = 256
train.max_iter = 300
train.calibrate_on = "bccd_val"
proxy = dict(opts=["train.max_iter=100"])
