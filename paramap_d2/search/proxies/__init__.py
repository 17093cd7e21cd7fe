"""The proxy task: a short Detectron2 training whose AP is a genome's fitness."""
