"""A run plan as text for a terminal: one block per slide, and a summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsikit.batch.plan import PlannedSlide, RunPlan

_MARKS = {"done": "✓", "missing": "+", "redo": "↻", "skipped": "–", "unknown": "?"}
_SHOWN = 50
"""Above this number of slides, finished ones are counted but not listed."""


def plan_text(plan: RunPlan) -> str:
    """The text of `wsikit run --dry-run`."""
    lines = [
        f"model      {plan.model.name} {plan.model.version}, patches of {plan.model.patch_px} px at "
        f"{plan.model.mpp:g} µm/px, classes {', '.join(plan.model.classes)}",
        f"captioner  {plan.captioner.get('spec') or plan.captioner.get('name')}",
        f"output     {plan.out}",
    ]
    if plan.features:
        lines.insert(2, f"features   {_features(plan)}")
    if plan.changes:
        lines.append("changed since the previous run:")
        lines += [f"  {change}" for change in plan.changes]
    lines += [f"note       {note}" for note in plan.notes]
    many = len(plan.slides) > _SHOWN
    lines.append("")
    for slide in plan.slides:
        if not (many and slide.finished):
            lines += _slide_lines(slide)
    lines += ["", *_summary(plan)]
    return "\n".join(lines)


def _features(plan: RunPlan) -> str:
    settings = plan.parameters
    how = (f"engine {plan.engine}", f"precision {settings.get('features_precision', 'auto')}")
    return f"{', '.join(plan.features)}; {', '.join(how)}, stored as {settings.get('features_dtype', 'float16')}"


def _slide_lines(slide: PlannedSlide) -> list[str]:
    head = f"{slide.entry.slide_id}  ({slide.entry.path})"
    if slide.fault:
        return [f"✗ {head}", f"    {slide.fault}"]
    if slide.finished:
        return [f"✓ {head}: finished"]
    if not slide.to_do:
        return [f"✓ {head}: all stages are up to date"]
    facts = []
    if slide.n_patches is not None:
        facts.append(f"{slide.n_patches} patches" if slide.patches_exact else f"up to {slide.n_patches} patches")
    if slide.source_bytes is not None:
        facts.append(f"source {_bytes(slide.source_bytes)}")
    if slide.seconds is not None:
        facts.append(f"about {_time(slide.seconds)}" if slide.patches_exact else f"up to about {_time(slide.seconds)}")
    lines = [f"• {head}: {', '.join(facts)}"]
    for stage in slide.stages:
        reason = f"  {stage.reason}" if stage.reason else ""
        lines.append(f"    {_MARKS[stage.state]} {stage.name:<15} {stage.state:<8} {stage.where:<8}{reason}".rstrip())
    return lines


def _summary(plan: RunPlan) -> list[str]:
    slides = plan.slides
    finished = sum(slide.finished for slide in slides)
    faults = sum(bool(slide.fault) for slide in slides)
    open_ = [slide for slide in slides if not slide.finished and not slide.fault]
    parts = [f"{len(slides)} slide{'' if len(slides) == 1 else 's'}: {finished} finished, {len(open_)} to do"]
    if faults:
        parts.append(f"{faults} cannot be opened")
    lines = [", ".join(parts) + "."]
    if open_:
        lines.append(_cost(plan, open_))
    lines.append("✓ kept  + to be made  ↻ to be made again  – not for this slide  ? decided during the run")
    lines.append("Nothing was changed. Run the same command without --dry-run to start.")
    return lines


def _cost(plan: RunPlan, slides: Sequence[PlannedSlide]) -> str:
    patches = sum(slide.n_patches or 0 for slide in slides)
    needed = sum(slide.source_bytes or 0 for slide in slides if any(stage.name == "pixels" for stage in slide.to_do))
    seconds = sum(slide.seconds or 0.0 for slide in slides)
    bound = "" if all(slide.patches_exact for slide in slides) else "up to "
    free = "" if plan.free_bytes is None else f" of {_bytes(plan.free_bytes)} free"
    return (
        f"{bound}{patches} patches; disk about {_bytes(needed)}{free}; {bound}about {_time(seconds)} on this machine "
        "(estimate; uses measured rates after a first run)."
    )


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
