"""wsikit: from a whole-slide image to a subtype, a map, and the words and pixels behind it.

Importing this package loads nothing heavy; each name is fetched when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit._lazy import lazy_names
from wsikit._version import __version__

_HOME = {
    "Areas": "wsikit.voting.result",
    "Budget": "wsikit.inference.budget",
    "Caption": "wsikit.captions.base",
    "Captioner": "wsikit.captions.base",
    "CaptionerOptions": "wsikit.captions.registry",
    "Channel": "wsikit.slides.types",
    "ConceptAxis": "wsikit.models.protocol",
    "ConceptMap": "wsikit.inference.localize",
    "ConceptPatch": "wsikit.inference.localize",
    "EncoderEntry": "wsikit.encoders.listing",
    "EncoderInfo": "wsikit.encoders.protocol",
    "Executor": "wsikit.executor",
    "FeatureSource": "wsikit.models.protocol",
    "ImageParameters": "wsikit.tiling.plan",
    "Interval": "wsikit.voting.result",
    "LearnedVote": "wsikit.voting.learned",
    "ModelColumn": "wsikit.models.protocol",
    "ModelInfo": "wsikit.models.protocol",
    "Patch": "wsikit.tiling.patches_of",
    "PatchEncoder": "wsikit.encoders.protocol",
    "PatchGrid": "wsikit.geometry",
    "PatchMatch": "wsikit.inference.search",
    "PatchModel": "wsikit.models.protocol",
    "PatchTable": "wsikit.store.table",
    "Patches": "wsikit.tiling.patches_of",
    "PhantomTruth": "wsikit.phantom.truth",
    "PlannedSlide": "wsikit.batch.plan",
    "PlannedStage": "wsikit.batch.plan",
    "PriorShift": "wsikit.voting.prior",
    "Progress": "wsikit.progress",
    "Receipt": "wsikit.store.receipts",
    "RequestError": "wsikit.errors",
    "Roi": "wsikit.tiling.roi",
    "RuleOutcome": "wsikit.voting.result",
    "RunPlan": "wsikit.batch.plan",
    "RunResult": "wsikit.batch.run_result",
    "RunTime": "wsikit.batch.timing",
    "SceneInfo": "wsikit.slides.types",
    "SearchResult": "wsikit.inference.search",
    "SecondSubtype": "wsikit.voting.result",
    "ShareInterval": "wsikit.voting.intervals",
    "Slide": "wsikit.slides.base",
    "SlideEncoder": "wsikit.encoders.slide_protocol",
    "SlideEntry": "wsikit.batch.manifest",
    "SlideInfo": "wsikit.slides.base",
    "SlideResult": "wsikit.voting.result",
    "SlideRow": "wsikit.batch.records",
    "SlideStore": "wsikit.slides.store",
    "SlideVector": "wsikit.store.slide_vectors",
    "StageTime": "wsikit.batch.timing",
    "StoredInput": "wsikit.encoders.protocol",
    "TextImageEncoder": "wsikit.encoders.protocol",
    "ThresholdRule": "wsikit.voting.parameters",
    "TissueMask": "wsikit.tissue.mask",
    "TissueParameters": "wsikit.tissue.parameters",
    "VoteParameters": "wsikit.voting.parameters",
    "WsikitError": "wsikit.errors",
    "caption": "wsikit.inference.caption",
    "describe_encoder": "wsikit.encoders.registry",
    "describe_model": "wsikit.models.registry",
    "export": "wsikit.results.export",
    "list_encoders": "wsikit.encoders.listing",
    "load_encoder": "wsikit.encoders.registry",
    "features": "wsikit.inference.features",
    "load_model": "wsikit.models.registry:load_patch_model",
    "localize": "wsikit.inference.localize",
    "make_phantom": "wsikit.phantom.slide",
    "open_slide": "wsikit.slides.registry",
    "patches": "wsikit.tiling.patches_of",
    "plan_run": "wsikit.batch.run",
    "predict": "wsikit.inference.predict",
    "run": "wsikit.batch.run",
    "search": "wsikit.inference.search",
    "slide_features": "wsikit.inference.slide_features",
    "tile": "wsikit.tiling.tile",
    "tissue_mask": "wsikit.tissue.mask",
    "vote": "wsikit.inference.vote",
}

__all__ = sorted(["__version__", *_HOME], key=str.lower)

if TYPE_CHECKING:
    from wsikit.batch.manifest import SlideEntry
    from wsikit.batch.plan import PlannedSlide, PlannedStage, RunPlan
    from wsikit.batch.records import SlideRow
    from wsikit.batch.run import plan_run, run
    from wsikit.batch.run_result import RunResult
    from wsikit.batch.timing import RunTime, StageTime
    from wsikit.captions.base import Caption, Captioner
    from wsikit.captions.registry import CaptionerOptions
    from wsikit.encoders.listing import EncoderEntry, list_encoders
    from wsikit.encoders.protocol import EncoderInfo, PatchEncoder, StoredInput, TextImageEncoder
    from wsikit.encoders.registry import describe_encoder, load_encoder
    from wsikit.encoders.slide_protocol import SlideEncoder
    from wsikit.errors import RequestError, WsikitError
    from wsikit.executor import Executor
    from wsikit.geometry import PatchGrid
    from wsikit.inference.budget import Budget
    from wsikit.inference.caption import caption
    from wsikit.inference.features import features
    from wsikit.inference.localize import ConceptMap, ConceptPatch, localize
    from wsikit.inference.predict import predict
    from wsikit.inference.search import PatchMatch, SearchResult, search
    from wsikit.inference.slide_features import slide_features
    from wsikit.inference.vote import vote
    from wsikit.models.protocol import ConceptAxis, FeatureSource, ModelColumn, ModelInfo, PatchModel
    from wsikit.models.registry import describe_model
    from wsikit.models.registry import load_patch_model as load_model
    from wsikit.phantom.slide import make_phantom
    from wsikit.phantom.truth import PhantomTruth
    from wsikit.progress import Progress
    from wsikit.results.export import export
    from wsikit.slides.base import Slide, SlideInfo
    from wsikit.slides.registry import open_slide
    from wsikit.slides.store import SlideStore
    from wsikit.slides.types import Channel, SceneInfo
    from wsikit.store.receipts import Receipt
    from wsikit.store.slide_vectors import SlideVector
    from wsikit.store.table import PatchTable
    from wsikit.tiling.patches_of import Patch, Patches, patches
    from wsikit.tiling.plan import ImageParameters
    from wsikit.tiling.roi import Roi
    from wsikit.tiling.tile import tile
    from wsikit.tissue.mask import TissueMask, tissue_mask
    from wsikit.tissue.parameters import TissueParameters
    from wsikit.voting.intervals import ShareInterval
    from wsikit.voting.learned import LearnedVote
    from wsikit.voting.parameters import ThresholdRule, VoteParameters
    from wsikit.voting.prior import PriorShift
    from wsikit.voting.result import Areas, Interval, RuleOutcome, SecondSubtype, SlideResult


__getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
