"""How well prompts find the patches whose captions name a term: a check without any map or label."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from wsikit.facts import ABSENT
from wsikit.models.afloc import AFLoc
from wsikit.models.afloc_losses import global_scores
from wsikit.training.afloc.statements import NAMES, terms_of
from wsikit.training.data import PatchSet

AT_ONCE = 64


@torch.inference_mode()
def term_figures(model: AFLoc, data: PatchSet, *, closed_world: bool = True) -> dict[str, Any]:
    """AUROC of each term: the prompt is its usual name, against its negation; the truth is what the caption names.

    Returns
    -------
    dict
        Term to {auroc, n, named}; terms that all captions name, or none, are left out. `mean` over the terms.
    """
    from sklearn.metrics import roc_auc_score

    read = [terms_of(caption) for caption in data.captions]
    device = next(model.parameters()).device
    rows = range(0, len(data), AT_ONCE)
    placed = torch.cat([model.patches(torch.from_numpy(data.images[r : r + AT_ONCE]).to(device)) for r in rows])
    found: dict[str, Any] = {}
    for term in model.config.terms:
        known = np.array([closed_world or term in one for one in read])
        named: npt.NDArray[np.bool_] = np.array([one.get(term, ABSENT) != ABSENT for one in read])[known]
        if named.all() or not named.any():
            continue
        name = NAMES[term][0]
        scores = global_scores(placed, model.sentences([name, f"no {name}"])).cpu().numpy()
        auroc = float(roc_auc_score(named, (scores[:, 0] - scores[:, 1])[known]))
        found[term] = {"prompt": name, "auroc": auroc, "n": len(named), "named": int(named.sum())}
    mean = float(np.mean([one["auroc"] for one in found.values()])) if found else None
    return {"terms": found, "mean": mean}
