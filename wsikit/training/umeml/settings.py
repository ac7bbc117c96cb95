"""Settings of UMEML's training, the section `umeml:` of a configuration. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsikit.models.umeml.config import DecoderConfig, ModularityConfig
from wsikit.training.cohort.scaling import BINS, Choice


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableSettings(_Settings):
    """How the columns of one table become tokens. Everything is fitted on the training part."""

    tokens: Literal["row", "gene_sets", "clusters", "learned", "components"] = "row"
    """row: one token per column. gene_sets: one per set of `gene_sets`. clusters: one per cluster of correlated columns
    (k-means of the training part). learned: groups that the network learns. components: one per principal component."""
    direct: Literal["none", "columns", "components"] = "none"
    """What also enters the heads linearly, next to the decoder: nothing, the z-scores, or principal components."""
    most: int | None = Field(None, gt=0)
    """Columns that are used for tokens, where the table has more; all if None."""
    by: Choice = "variance"
    """How they are chosen."""
    gene_sets: str | None = None
    """A GMT file: name, description, genes, separated by tabs, as MSigDB and Reactome give it."""
    smallest: int = Field(5, gt=0)
    """Gene sets with fewer columns in the table are left out. Ours, as panels differ; SurvPath keeps sets of 90 %."""
    groups: int = Field(16, gt=1)
    """Number of clusters or learned groups."""
    components: int = Field(10, gt=0)
    start: Literal["random", "correlated"] = "random"
    """First weights of gene_sets and clusters. correlated: by loadings of the training part, so that groups of
    correlated columns start with similar tokens and communities can find them. Ours."""
    layers: int = Field(0, ge=0)
    """Transformer blocks over the tokens of this table. Ours: 0, as cohorts have few patients."""
    heads: int = Field(4, gt=0)
    drop: float = Field(0.25, ge=0, lt=1)
    """Dropout of the tokens (alpha dropout for groups), as MCAT."""

    @model_validator(mode="after")
    def _has_sets(self) -> TableSettings:
        if (self.tokens == "gene_sets") != (self.gene_sets is not None):
            raise ValueError("tokens: gene_sets and the file gene_sets: give both or none")
        return self


class PatchSettings(_Settings):
    """The pathology branch; see `wsikit.models.umeml.config.PatchConfig`. The width is that of the features."""

    prototypes: int = Field(16, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(8, gt=0)
    normalisation: Literal["slots", "patches"] = "slots"
    pooling: Literal["heads", "shared"] = "heads"
    drop: float = Field(0.25, ge=0, lt=1)
    direct: Literal["none", "shares"] = "none"
    """What of the slides also enters the heads linearly: nothing, or the logarithms of the shares of patches that are
    nearest to each of K centres (k-means of the training part; K is `prototypes`)."""
    cross_attention: bool = False
    start: Literal["centres", "random"] = "centres"
    """First queries. centres: of k-means of patches of the training part, so that prototypes differ from the start. The
    paper says that queries cluster patches, not how; ours."""
    most: int = Field(4096, gt=0)
    """Patches of a patient per epoch, drawn again in each; all are used in validation and prediction."""
    together: int = Field(16_384, gt=0)
    """Patches in one forward pass, with padding; bounds the memory, does not change the result."""


class MirrorSettings(_Settings):
    """Losses of MIRROR (arXiv 2503.00374) next to those of the tasks; see `wsikit.training.umeml.mirror`. Both are off;
    MIRROR has 0.1 and 0.2. Its alignment and style terms are not among them."""

    retention: float = Field(0.0, ge=0)
    """Weight of the reconstruction of masked tokens."""
    cluster: float = Field(0.0, ge=0)
    """Weight of the divergence of both modalities' assignments to centres."""
    masked: float = Field(0.75, gt=0, lt=1)
    """Share of each modality's tokens that is masked, as in MIRROR."""
    centres: int = Field(64, gt=1)
    """MIRROR has 3,000, for far more patients. Ours."""


class UmemlSettings(_Settings):
    """Settings of network and training. Defaults are those of `wsikit.models.umeml.config` and of MCAT unless a field
    says otherwise."""

    width: int = Field(256, gt=0)
    patches: PatchSettings = PatchSettings.model_validate({})
    tables: dict[str, TableSettings | tuple[TableSettings, ...]] = {}
    """Token sets of each table of the cohort; a table may have several. A table that is not named gets the default: one
    token per column and direct columns up to 64 columns; above, clusters and direct columns."""
    products: bool = False
    """Products of the shares of `patches: {direct: shares}` with the means of gene sets or clusters, or a row's values,
    also enter the heads linearly: what one modality has may change what the other means."""
    modularity: ModularityConfig = ModularityConfig.model_validate({})
    community_starts: int = Field(0, ge=0)
    """After the training, fit the centres of the communities to the trained nodes, by the modularity loss alone, from
    so many random starts, and keep those of the lowest loss; predictions stay. 0: as the training left them, which is
    no optimum where it ended early. Ours."""
    decoder: DecoderConfig = DecoderConfig.model_validate({})
    modality_dropout: float = Field(0.15, ge=0, lt=1)
    mirror: MirrorSettings = MirrorSettings.model_validate({})

    survival: Literal["nll", "cox", "chosen"] = "nll"
    """nll: discrete hazards (MCAT, SurvPath). cox: partial likelihood with Efron's ties. chosen: that of `choices` with
    the lowest integrated Brier score of the validation part; each is trained, so it takes as many times as long.
    Intervals that a training part has too few events for are left out."""
    choices: tuple[Literal["cox"] | Annotated[int, Field(gt=1)], ...] = Field((4, 10, "cox"), min_length=2)
    """Of `survival: chosen`: cox, or the nll with so many intervals. Ours."""
    bins: int = Field(BINS, gt=1)
    """Intervals of nll; quartiles of the uncensored times of the training part by default, as MCAT and SurvPath. A
    patient censored in an interval counts as alive at its end, so few long intervals predict too few deaths: more
    intervals, or cox, give better survival probabilities, with nearly the same order of the patients."""
    uncensored_share: float = Field(0.0, ge=0, lt=1)
    """α_s of the nll."""
    class_weights: Literal["none", "balanced"] = "none"
    tasks: dict[Literal["survival", "classes"], float] = {}
    """Tasks and their weights in the loss; default: those that the cohort has, 1 each. Both: multi-task."""

    lr: float = Field(2e-4, gt=0)
    """AdamW, as MCAT's Adam."""
    weight_decay: float = Field(1e-5, ge=0)
    epochs: int = Field(20, gt=0)
    """Also the length of the cosine."""
    batch: int = Field(32, gt=0)
    """Patients per step. With slides their passes are accumulated."""
    warmup: float = Field(0.05, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    patience: int | None = Field(None, gt=0)
    """Early stopping: epochs without a lower loss of the validation part."""
    linear_start: bool = True
    """Fit the linear part of the heads first, with a ridge penalty that the validation part chooses, and start the
    network's part at zero. Ours."""
    penalties: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    """Ridge penalties to choose from; each table's z-scores are divided by the root of its number of columns first."""
    members: int = Field(1, gt=0)
    """Networks with different seeds whose predictions are averaged."""
    refit: bool = False
    """When epoch and penalty are chosen, train again on training and validation part together, with them fixed."""

    @model_validator(mode="after")
    def _possible(self) -> UmemlSettings:
        by_batch = self.survival == "cox" or (self.survival == "chosen" and "cox" in self.choices)
        if by_batch and self.batch < 32:
            raise ValueError(f"batch {self.batch}: the Cox loss compares the patients of a batch; give 32 or more")
        if self.tasks and not any(self.tasks.values()):
            raise ValueError("tasks: all weights are 0; nothing would be learnt")
        return self
