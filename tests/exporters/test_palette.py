"""Colours of classes."""

from __future__ import annotations

from wsikit.exporters.palette import CLASS_COLORS, SUBTYPE_COLORS, class_colors


def test_a_category_of_inpc_has_one_colour_in_every_model():
    every = dict(zip(("UD", "PD", "D", "GNB-I"), class_colors(("UD", "PD", "D", "GNB-I"))))
    kidrare = ("PD", "D", "GNB-I", "other")  # a model without UD
    assert class_colors(kidrare, ("other",))[:3] == tuple(every[code] for code in kidrare[:3])
    assert len(set(SUBTYPE_COLORS.values())) == len(SUBTYPE_COLORS)


def test_other_classes_take_the_palette_in_their_order():
    assert class_colors(("benign", "IDC")) == CLASS_COLORS[:2]
    assert class_colors(("PD", "IDC")) == CLASS_COLORS[:2]
