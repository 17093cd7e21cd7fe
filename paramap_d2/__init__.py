"""ParamAP: the Parameterized AP Loss and its search, for Detectron2."""

__version__ = "0.1.0"
