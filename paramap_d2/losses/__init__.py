"""The Parameterized AP Loss, and other losses that rank. Needs torch and nothing of Detectron2."""

from .ap_loss import APLoss
from .functions import FUNCTION_NAMES, SUBSTITUTIONS, PiecewiseLinear, RankingFunction, Sigmoid, Sqrt, Square
from .loss_file import HEADS, HeadLoss, LossFileError, head_losses, list_presets, load_any_loss, load_loss, save_loss
from .parameterized_ap import ParameterizedAPLoss
from .quality import box_quality
from .rank_sort import RankSortLoss
from .ranking_loss import APLossTerms, RankingLoss
from .siblings import SIBLINGS, Sibling

__all__ = [
    "APLoss",
    "APLossTerms",
    "FUNCTION_NAMES",
    "HEADS",
    "HeadLoss",
    "LossFileError",
    "ParameterizedAPLoss",
    "PiecewiseLinear",
    "RankSortLoss",
    "RankingFunction",
    "RankingLoss",
    "SIBLINGS",
    "SUBSTITUTIONS",
    "Sibling",
    "Sigmoid",
    "Sqrt",
    "Square",
    "box_quality",
    "head_losses",
    "list_presets",
    "load_any_loss",
    "load_loss",
    "save_loss",
]
