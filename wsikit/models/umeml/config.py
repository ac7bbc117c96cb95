"""Settings of the UMEML network. No torch here.

The paper (Yi, Wang, Li, Li: Unified Modeling Enhanced Multimodal Learning for Precision Neuro-Oncology, arXiv
2406.07078) names its parts and its losses, and no code is public. Where it gives no number, the default is a decision
of wsikit; the docstring of each field says which.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PatchConfig(_Settings):
    """The pathology encoder: learned queries that attend to the patches of a patient and gather them to prototypes."""

    width: int = Field(gt=0)
    """Width of the patch features, as their encoder gives them."""
    prototypes: int = Field(16, gt=0)
    """Learned queries, K. The paper has learned query tokens and gives no number; 16 is ours."""
    layers: int = Field(2, gt=0)
    """Blocks of cross-attention and feed-forward. Ours."""
    heads: int = Field(8, gt=0)
    """Attention heads. 8 as in MCAT's transformers."""
    normalisation: Literal["slots", "patches"] = "slots"
    """slots: prototypes compete for each patch (softmax over prototypes, then weights are normalised over patches; Slot
    Attention, arXiv 2006.15055), so that they cluster, as the paper describes. patches: plain attention, softmax over
    patches."""
    pooling: Literal["heads", "shared"] = "heads"
    """heads: usual multi-head attention. shared: each prototype is the mean of its patches by one set of weights, the
    mean over the heads, which is also what its map shows; a step on all patches then takes less time. Ours."""
    drop: float = Field(0.25, ge=0, lt=1)
    """Dropout after the projection of the patches, of whole features per patient; the rate is MCAT's, where it is of
    single values, which averages out over a bag."""
    centres: int = Field(0, ge=0)
    """Fixed places in the feature space, at which patches are counted: the logarithms of their shares enter the heads
    linearly, as direct columns of tables do. A prototype is a mean of patches, and does not tell how many belong to it.
    Ours; off."""
    cross_attention: bool = False
    """Let the decoder's task and register tokens also attend to the patches. Not described by the paper; off."""


class GroupsConfig(_Settings):
    """Gene tokens: one token for each group of columns, by a self-normalising network (SNN, arXiv 1706.02515; MCAT)."""

    kind: Literal["groups"] = "groups"
    groups: tuple[tuple[int, ...], ...]
    """Columns of each group, zero-based, such as gene sets. A column may be in several groups or in none."""
    drop: float = Field(0.25, ge=0, lt=1)
    """Alpha dropout; MCAT's."""
    layers: int = Field(2, ge=0)
    """Transformer blocks over the tokens. Ours (hierarchical attention in the paper)."""
    heads: int = Field(8, gt=0)


class LearnedGroupsConfig(_Settings):
    """Gene tokens whose groups are learned: each column has an embedding and a soft membership. Ours."""

    kind: Literal["learned"] = "learned"
    columns: int = Field(gt=0)
    groups: int = Field(6, gt=0)
    """Tokens; 6 as MCAT's functional families."""
    drop: float = Field(0.25, ge=0, lt=1)
    layers: int = Field(2, ge=0)
    heads: int = Field(8, gt=0)


class RowConfig(_Settings):
    """One token for each value of a row (clinical values, concept scores, principal components): value times a vector
    plus a vector, as FT-Transformer (arXiv 2106.11959). A missing value, NaN, has a vector of its own."""

    kind: Literal["row"] = "row"
    columns: int = Field(gt=0)
    layers: int = Field(0, ge=0)
    heads: int = Field(8, gt=0)
    drop: float = Field(0.0, ge=0, lt=1)


class SequenceConfig(_Settings):
    """Tokens that are features already, such as those of the sentences of captions: projected to the common width."""

    kind: Literal["sequence"] = "sequence"
    width: int = Field(gt=0)
    """Width of the features."""
    layers: int = Field(2, ge=0)
    heads: int = Field(8, gt=0)
    drop: float = Field(0.25, ge=0, lt=1)


TokenConfig = Annotated[GroupsConfig | LearnedGroupsConfig | RowConfig | SequenceConfig, Field(discriminator="kind")]


def token_count(config: TokenConfig) -> int:
    """Tokens of a patient; 0 for sequences, whose length differs."""
    if isinstance(config, GroupsConfig):
        return len(config.groups)
    if isinstance(config, LearnedGroupsConfig):
        return config.groups
    return config.columns if isinstance(config, RowConfig) else 0


class ModularityConfig(_Settings):
    """The modularity loss over the graph of prototypes and second tokens; see `wsikit.models.umeml.modularity`."""

    weight: float = Field(0.1, ge=0)
    """γ. The paper has the symbol and no number."""
    variant: Literal["views", "blocks"] = "views"
    """views: both assignments see all nodes, so edges between the modalities count. blocks: each sees its own. The
    paper does not define the shapes; see docs/umeml.md."""
    communities: int = Field(16, gt=0)
    """C. Ours: as many as prototypes by default."""
    alpha: float = Field(1.0, ge=0)
    """Weight of the pathology assignment; symbol of the paper, number ours."""
    beta: float = Field(1.0, ge=0)
    """Weight of the genomics assignment; symbol of the paper, number ours."""
    temperature: float = Field(0.5, gt=0)
    """τ of the assignment's softmax; cosines are divided by it. Ours."""
    collapse: float = Field(0.1, ge=0)
    """Weight of DMoN's collapse term (arXiv 2006.16904); 0 is the paper's formula."""
    centre: bool = False
    """Subtract the mean node of each modality before the cosines, so that what all nodes have in common adds no edges.
    Ours; off, as the cosines are taken of the nodes themselves."""
    least: float = Field(0.0, ge=0, lt=1)
    """Cosines up to this are no edges. Unrelated nodes have cosines of about ± 1/√d, and modularity joins small groups
    over few weak edges (its resolution limit). Ours; 0, as every positive cosine is an edge."""
    detach: bool = True
    """The graph is a constant of the loss; else it can be lowered by thinning the graph. Ours."""


class DecoderConfig(_Settings):
    """The unified decoder: one sequence of task tokens, registers, prototypes and second tokens."""

    registers: int = Field(4, ge=0)
    """Learned tokens without an input, "registration tokens" in the paper, which gives no number; 4 as in arXiv
    2309.16588."""
    layers: int = Field(2, gt=0)
    """Pre-norm blocks. Ours."""
    heads: int = Field(8, gt=0)
    drop: float = Field(0.25, ge=0, lt=1)
    """Dropout; MCAT's."""
    hidden: int = Field(2, gt=0)
    """Width of the feed-forward part in multiples of the model's width; MCAT has 512 with a width of 256."""
    product: int = Field(0, ge=0)
    """Rank of a product of both modalities, added to the state of each task: linear functions of all prototypes times
    linear functions of all second tokens (low-rank bilinear fusion, as in Pathomic Fusion's Kronecker product). Ours;
    off."""
    bidirectional: int = Field(0, ge=0)
    """Blocks before the sequence in which prototypes and second tokens attend to each other: IRENE's, which has 2
    (arXiv 2306.00864; `wsikit.models.bidirectional`). Not of UMEML's paper; off. Needs slides and tables."""


class TaskConfig(_Settings):
    """One task, with a token and a head of its own."""

    name: str = Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_]*$")
    kind: Literal["survival", "cox", "classification", "ordinal"]
    """survival: discrete hazards per interval of time; cox: one log-risk; classification: one logit per class; ordinal:
    one score and ordered cuts (cumulative logits), for grades."""
    outputs: int = Field(gt=0)
    """Intervals of time, or classes; 1 for cox."""
    linear: bool = True
    """Add a linear function of the columns named for it (`UmemlConfig.direct`), next to the decoder's part. Ours; after
    wide-and-deep models (arXiv 1606.07792). Without such columns it has no effect."""

    @model_validator(mode="after")
    def _enough(self) -> TaskConfig:
        if (self.kind == "cox") != (self.outputs == 1):
            raise ValueError(f"task {self.name}: {self.kind} with {self.outputs} outputs; cox has 1, others 2 or more")
        return self


class UmemlConfig(_Settings):
    """Everything needed to rebuild the network."""

    format: Literal[1] = 1
    architecture: Literal["umeml"] = "umeml"
    width: int = Field(256, gt=0)
    """d, common width of all tokens. Not given by the paper; 256 as in MCAT."""
    patches: PatchConfig | None = None
    """None: there are no slides, and no pathology branch is built."""
    tokens: dict[str, TokenConfig] = {}
    """Second token sets by name, such as genes, clinical, captions."""
    sources: dict[str, str] = {}
    """Tables that the token sets are made of, where several are made of one: modality dropout takes whole tables. A set
    that is not named is a table of its own."""
    direct: tuple[str, ...] = ()
    """Columns that also enter the heads directly, next to the decoder: the token set that each belongs to. A column
    whose set is missing counts as 0."""
    products: bool = False
    """The products of the centres' shares with the groups' means, or a row's values, of all token sets also enter the
    heads linearly. Ours; off."""
    modularity: ModularityConfig = ModularityConfig.model_validate({})
    decoder: DecoderConfig = DecoderConfig.model_validate({})
    tasks: tuple[TaskConfig, ...]
    modality_dropout: float = Field(0.15, ge=0, lt=1)
    """Probability in training that one modality of a patient is treated as missing. Ours; the paper lists missing
    modalities as future work."""

    @model_validator(mode="after")
    def _fits(self) -> UmemlConfig:
        if self.patches is None and not self.tokens:
            raise ValueError("give patches, tokens, or both; there is nothing to learn from")
        if not self.tasks or len({task.name for task in self.tasks}) != len(self.tasks):
            raise ValueError("tasks: give at least one, each with a name of its own")
        unknown = sorted((set(self.direct) | set(self.sources)) - set(self.modalities))
        if unknown:
            raise ValueError(
                f"direct, sources: no token set {', '.join(unknown)}; there are {', '.join(self.modalities)}"
            )
        if "patches" in self.tokens:
            raise ValueError("tokens: 'patches' is the name of the pathology branch; give another name")
        if self.products and not (self.patches and self.patches.centres and self.tokens):
            raise ValueError("products: needs tables and patches: {direct: shares}; set it to false")
        if self.decoder.product and not (self.patches and self.tokens and all(map(token_count, self.tokens.values()))):
            raise ValueError("decoder.product: needs patches, and token sets of known length; set it to 0")
        if self.decoder.bidirectional and not (self.patches and self.tokens):
            raise ValueError("decoder.bidirectional: needs patches and tokens, which attend to each other; set it to 0")
        parts = {"decoder": self.decoder, **self.tokens, **({"patches": self.patches} if self.patches else {})}
        for name, part in parts.items():
            if self.width % part.heads:
                raise ValueError(f"{name}: width {self.width} is not a multiple of its {part.heads} heads")
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the branches in the order of their tokens."""
        return (("patches",) if self.patches else ()) + tuple(self.tokens)

    @property
    def tables(self) -> tuple[int, ...]:
        """Number of the table of each modality, in the order of `modalities`."""
        names = [self.sources.get(name, name) for name in self.modalities]
        return tuple(names.index(name) for name in names)
