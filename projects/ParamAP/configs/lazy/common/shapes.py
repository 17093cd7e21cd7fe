# The data set that the project draws itself, at 128 pixels.
from .small_training import dataloader, lr_multiplier, optimizer, train  # noqa: F401

dataloader.train.dataset.names = "shapes_train"
dataloader.test.dataset.names = "shapes_val"
train.max_iter = 200
train.calibrate_on = "shapes_val"
proxy = dict(opts=["train.max_iter=60"])
