"""The YAML file of `wsikit train` for cohorts: table, outcome, splits, baselines, network. No torch here."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from wsikit.training.task import ClassConfig, Strict

BASELINES_ONLY = "baselines"
"""`architecture: baselines` measures the baselines alone."""

Sites = Literal["auto", "apart", "balanced", "ignore"]


class JoinedTable(Strict):
    """A further table of the same patients, such as one of labels."""

    csv: str
    patient: str
    """Its column of patient ids."""


class CohortData(Strict):
    """Where the patients are, and which of their columns are read. All names are those of the CSV's header."""

    csv: str
    """A CSV, or a zip that holds one. One row per patient, or one per slide."""
    join: tuple[JoinedTable, ...] = ()
    """Tables whose columns are added, matched by patient."""
    patient: str = "patient"
    slide: str | None = None
    """Column with the slide's name, or the path of its features."""
    features: str | None = None
    """Folder of patch features, one file (or store) per slide, named as the slide; see docs/survival.md."""
    encoder: str | None = None
    """Whose features are read from stores and files that hold those of several encoders."""
    site: str | None = None
    """Column with the hospital; default: from TCGA barcodes (TCGA-XX-…), else unknown."""
    columns: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Names or patterns (`*_rnaseq`) of numeric columns by modality."""
    exclude: tuple[str, ...] = ()
    """Names or patterns of columns that no modality contains."""
    age: str = "age"
    """Column of the baseline "age alone"; where no modality has it, this baseline is left out."""

    @field_validator("columns", mode="before")
    @classmethod
    def _one_or_more(cls, columns: Any) -> Any:
        """`rna: "*_rnaseq"` is short for `rna: ["*_rnaseq"]`."""
        if not isinstance(columns, dict):
            return columns
        return {name: (value,) if isinstance(value, str) else value for name, value in columns.items()}


class SurvivalColumns(Strict):
    """Follow-up: one column of times, and one that says how it ended, in one of two codings."""

    time: str
    unit: Literal["days", "months", "years"] = "months"
    event: str | None = None
    """Column in which 1 (true, dead) means that the event occurred."""
    censorship: str | None = None
    """Column in which 1 (true) means that the follow-up was censored, so the event did not occur."""
    coding_checked: bool = False
    """True: a person has checked the coding, so that many late events are no warning (glioblastoma has them)."""
    horizons: tuple[float, ...] = (12.0, 36.0, 60.0)
    """Months at which AUC and calibration are measured, as far as the follow-up allows."""

    @model_validator(mode="after")
    def _one_coding(self) -> Self:
        if (self.event is None) == (self.censorship is None):
            raise ValueError("give either event (1: it occurred) or censorship (1: censored)")
        return self


class LabelColumn(Strict):
    """A class or grade of each patient."""

    column: str
    classes: tuple[ClassConfig, ...] = ()
    """In their order; default: the values of the column, sorted."""
    ordered: bool = False
    """The classes are grades."""
    missing: tuple[str, ...] = ()
    """Further values that mean: not known."""


class CohortSplit(Strict):
    """Nested cross-validation by patient: each fold is the test part once; the validation part comes from the rest."""

    folds: int = Field(default=5, ge=2)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """Each seed makes folds and a training of its own."""
    validation: float = Field(default=0.2, gt=0, lt=0.5)
    """Fraction of the patients outside the test part."""
    sites: Sites = "auto"
    """apart: all patients of a hospital are in one part. balanced: hospitals are spread over the folds. auto: apart
    where the hospitals allow it, else balanced, with a warning; see `wsikit.training.cohort.folds.decided_split`. Where
    no hospital is known, they are ignored."""


class CohortTrainConfig(Strict):
    """All settings of the file."""

    architecture: str
    name: str = Field(min_length=1)
    version: str = "1"
    notice: str = "For research use only. Not for diagnosis."
    data: CohortData
    survival: SurvivalColumns | None = None
    labels: LabelColumn | None = None
    split: CohortSplit = CohortSplit()
    baselines: bool = True
    """Also measure the baselines, on the same folds."""
    components: int = Field(10, gt=0)
    """Principal components of the baseline "components + age"."""
    min_at_risk: int = Field(10, gt=0)
    """Metrics end at the last time after which so many patients of the training are still under observation."""
    draws: int = Field(1000, ge=100)
    """Bootstrap draws of patients for intervals."""
    umeml: dict[str, Any] = {}
    """Settings of UMEML; see `wsikit.training.umeml.settings`."""
    deploy: bool = True
    """Also train the network once on all patients (with a validation part), for new ones: OUT/model."""

    @model_validator(mode="after")
    def _some_outcome(self) -> Self:
        if self.survival is None and self.labels is None:
            raise ValueError("give survival, labels, or both: there is nothing to learn")
        return self
