# The options of the loss, as cfg.MODEL.PARAM_AP has them in YAML configs.
param_ap = dict(
    loss="",  # a preset, or the path of a loss file such as the best.json of a search
    quality="giou",  # of a positive's box: giou, iou or l1
    block_gradient=True,  # hold the denominator of the precision constant in the backward pass
    top_k=0,  # count only the k samples of highest score; 0 counts all
    global_batch=True,  # several processes rank the samples of all of them together; not with top_k
    grad_scale=0.0,  # factor on the gradient of the box branch; 0.0 takes the loss file's
)
