"""ParamAP: the Parameterized AP Loss and its search, for Detectron2."""

__version__ = "0.2.0"
