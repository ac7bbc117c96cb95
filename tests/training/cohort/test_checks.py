"""What is checked before anything starts, and what each check says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.training.cohort.cohort import load_cohort
from wsikit.training.cohort.config import CohortTrainConfig, SurvivalColumns
from wsikit.training.cohort.findings import Findings, refuse
from wsikit.training.cohort.follow_up import read_follow_up
from wsikit.training.cohort.leaks import FOR_CLASSES, FOR_SURVIVAL, leaks
from wsikit.training.cohort.patient_table import PatientTable

Rows = list[dict[str, Any]]
Configured = Callable[..., CohortTrainConfig]


def findings(config: CohortTrainConfig, level: str) -> str:
    """The texts of one level, joined."""
    return "\n".join(one.text for one in load_cohort(config).findings if one.level == level)


def test_a_sound_table_has_no_finding(rows: Rows, configured: Configured) -> None:
    cohort = load_cohort(configured(rows, labels={"column": "kind"}))
    assert cohort.findings == ()
    assert cohort.part.columns["rna"].shape == (120, 12)
    assert len(set(cohort.sites or ())) == 12
    assert cohort.words.startswith("120 patients of 12 sites, ")


def test_rows_of_one_patient_may_be_several_slides(rows: Rows, configured: Configured) -> None:
    more = [*rows, rows[0] | {"slide": "P000-B.svs", "age": f"{rows[0]['age']:.3f}"}]
    cohort = load_cohort(configured(more))
    assert (len(cohort.part), cohort.findings) == (120, ())


def test_contradicting_rows_of_one_patient_are_an_error(rows: Rows, configured: Configured) -> None:
    config = configured([*rows, rows[5] | {"months": 99.0}])
    assert "patient 'P005' has months" in findings(config, "error")
    assert "line 7 and '99.0' in line 122" in findings(config, "error")
    config = configured([*rows, rows[5] | {"G3_rna": 9.0}])
    assert "patient 'P005' has G3_rna" in findings(config, "error")


def test_a_column_of_censoring_given_as_event_is_an_error(rows: Rows, configured: Configured) -> None:
    coded = [{**row, "censorship": 1 - row["died"]} for row in rows]
    wrong = configured(coded, survival={"time": "months", "event": "censorship"})
    assert "its name says censoring. Write  censorship: censorship  instead" in findings(wrong, "error")
    right = load_cohort(configured(coded, survival={"time": "months", "censorship": "censorship"}))
    other = load_cohort(configured(rows))
    assert right.findings == ()
    assert np.array_equal(right.part.event, other.part.event)


def test_the_reversed_coding_of_a_real_table_is_noticed(data_dir: Path) -> None:
    """TCGA GBM-LGG with its column of censoring taken for deaths; only the name of the column is neutral."""
    table = PatientTable(str(data_dir / "tables" / "tcga_gbmlgg_all_clean.csv.zip"), "case_id")
    found = Findings("table")
    read_follow_up(table, SurvivalColumns(time="survival_months", event="censorship"), found)
    assert any("may be the reversed coding" in one.text for one in found.found)
    found = Findings("table")
    read_follow_up(table, SurvivalColumns(time="survival_months", censorship="censorship"), found)
    assert found.found == []


def test_a_column_of_deaths_given_as_censorship_is_an_error(rows: Rows, configured: Configured) -> None:
    wrong = configured(
        [{**row, "death": row["died"]} for row in rows], survival={"time": "months", "censorship": "death"}
    )
    assert "its name says event" in findings(wrong, "error")


def test_events_that_come_mostly_after_the_censored_look_reversed(rows: Rows, configured: Configured) -> None:
    # most are censored, late; reversed, most have the "event", and late
    changed = [row | {"months": 60 + i if i % 3 else 5 + i / 10, "flag": int(i % 3 > 0)} for i, row in enumerate(rows)]
    found = findings(configured(changed, survival={"time": "months", "event": "flag"}), "warning")
    assert "may be the reversed coding. If so, give the column as survival.censorship" in found
    checked = {"time": "months", "event": "flag", "coding_checked": True}
    assert findings(configured(changed, survival=checked), "warning") == ""
    assert findings(configured(changed, survival={"time": "months", "censorship": "flag"}), "warning") == ""


@pytest.mark.parametrize("word", ["dead", "Alive", "1:DECEASED"])
def test_words_for_vital_status_are_read(rows: Rows, configured: Configured, word: str) -> None:
    died = word.lower() != "alive"
    opposite = "alive" if died else "dead"
    changed = [row | {"status": word if row["died"] == died else opposite} for row in rows]
    part = load_cohort(configured(changed, survival={"time": "months", "event": "status"})).part
    assert part.event is not None
    assert part.event.tolist() == [row["died"] == 1 for row in rows]


def test_an_unknown_code_of_the_event_is_named(rows: Rows, configured: Configured) -> None:
    rows[3]["died"] = "2"
    assert "holds '2' of patient 'P003'; expected 0 or 1" in findings(configured(rows), "error")


def test_days_given_as_months_are_an_error(rows: Rows, configured: Configured) -> None:
    changed = [row | {"months": round(row["months"] * 30.4 + 700)} for row in rows]
    assert "set survival.unit: days" in findings(configured(changed), "error")


def test_a_table_with_a_third_of_its_times_beyond_50_years_may_be_in_days(rows: Rows, configured: Configured) -> None:
    """Days of a cohort that is followed for years, given as months: most are below 600."""
    changed = [row | {"months": 700 if i % 3 == 0 else 300} for i, row in enumerate(rows)]
    assert "if all are, set survival.unit: days; if only some are, bring" in findings(configured(changed), "error")
    changed = [row | {"months": 700 if i == 0 else 30} for i, row in enumerate(rows)]
    assert "these look like days; bring all times to one unit" in findings(configured(changed), "error")


def test_an_assumed_encoding_of_the_table_is_a_note(rows: Rows, configured: Configured, tmp_path: Path) -> None:
    config = configured([{**row, "patient": f"患者{i:03d}"} for i, row in enumerate(rows)])
    text = Path(config.data.csv).read_text(encoding="utf-8")
    Path(config.data.csv).write_bytes(text.encode("gb18030"))
    cohort = load_cohort(config)
    assert cohort.part.ids[0] == "患者000"
    assert "GB 18030" in findings(config, "note")


def test_a_few_times_in_days_among_months_are_named(rows: Rows, configured: Configured) -> None:
    for row in rows[:6]:
        row["months"] = round(row["months"] * 30.4 + 300)
    text = findings(configured(rows), "warning")
    assert "6 patients (such as 'P000') have a months that is a whole number" in text
    assert "look like days" in text


def test_a_unit_in_the_name_of_the_column_must_be_the_stated_one(rows: Rows, configured: Configured) -> None:
    changed = [{**row, "os_days": row["months"]} for row in rows]
    assert "says days, but survival.unit is months" in findings(
        configured(changed, survival={"time": "os_days", "event": "died"}), "error"
    )


def test_days_and_years_become_months(rows: Rows, configured: Configured) -> None:
    months = load_cohort(configured(rows)).part.time
    changed = [{**row, "t": row["months"] / 12} for row in rows]
    years = load_cohort(configured(changed, survival={"time": "t", "unit": "years", "event": "died"})).part.time
    assert months is not None
    assert np.allclose(years, months)


def test_months_given_as_days_are_named_and_days_are_not(rows: Rows, configured: Configured) -> None:
    days = {"time": "t", "unit": "days", "event": "died"}
    right = [{**row, "t": round(row["months"] * 2)} for row in rows]
    assert "these months" not in findings(configured(right, survival=days), "warning")
    wrong = [{**row, "t": row["months"]} for row in rows]
    assert "are these months? Then set survival.unit: months" in findings(configured(wrong, survival=days), "warning")


def test_missing_follow_up_is_left_out_and_reported(rows: Rows, configured: Configured) -> None:
    rows[0]["months"], rows[1]["died"] = "", "unknown"
    cohort = load_cohort(configured(rows))
    assert len(cohort.part) == 118
    assert "2 patients (such as 'P000') have no months or died; left out" in cohort.findings[0].text


def test_a_negative_time_is_left_out_and_many_are_an_error(rows: Rows, configured: Configured) -> None:
    rows[0]["months"] = -1
    assert "patient 'P000' has a negative months; left out" in findings(configured(rows), "warning")
    assert len(load_cohort(configured(rows)).part) == 119
    for row in rows[:10]:
        row["months"] = -1
    assert "10 patients (such as 'P000') have a negative months" in findings(configured(rows), "error")


def test_a_time_of_zero_is_reported(rows: Rows, configured: Configured) -> None:
    rows[7]["months"] = 0
    assert "patient 'P007' has a months of 0; kept" in findings(configured(rows), "warning")


def test_text_in_a_numeric_column_is_an_error(rows: Rows, configured: Configured) -> None:
    rows[4]["sex"] = "female"
    assert "column 'sex' is not numeric: 'female' of patient 'P004'" in findings(configured(rows), "error")


def test_constant_columns_are_left_out_with_a_note(rows: Rows, configured: Configured) -> None:
    config = configured([row | {"sex": 1} for row in rows])
    assert "columns clinical: sex constant or empty, left out" in findings(config, "note")
    assert load_cohort(config).part.names["clinical"] == ("age",)


def test_a_misspelt_column_is_named_with_the_one_meant(rows: Rows, configured: Configured) -> None:
    config = configured(rows, data={"columns": {"clinical": ["agee"]}})
    assert "no column 'agee'; did you mean 'age'?" in findings(config, "error")


def test_the_outcome_among_the_columns_is_an_error(rows: Rows, configured: Configured) -> None:
    config = configured(rows, data={"columns": {"clinical": ["age", "months"]}})
    assert "column 'months' is the follow-up itself" in findings(config, "error")


def test_a_value_of_no_class_is_an_error_and_a_missing_label_is_noted(rows: Rows, configured: Configured) -> None:
    rows[0]["kind"] = "C"
    labels = {"column": "kind", "classes": [{"code": "A"}, {"code": "B"}]}
    assert "'C' is in no class (A, B)" in findings(configured(rows, labels=labels), "error")
    rows[0]["kind"] = ""
    assert "1 of 120 patients (such as 'P000') have none" in findings(configured(rows, labels=labels), "note")
    part = load_cohort(configured(rows, labels=labels, survival=None)).part
    assert (len(part), part.classes) == (119, ("A", "B"))


def test_columns_that_define_the_class_are_warned_of_and_refused_with_strict(
    rows: Rows, configured: Configured
) -> None:
    changed = [
        {**row, "IDH1_mut": i % 2, "codel_1p19q": i % 3, "who": "Astro" if i % 2 else "GBM"}
        for i, row in enumerate(rows)
    ]
    config = configured(
        changed,
        data={"columns": {"mut": ["IDH1_mut", "codel_1p19q"], "rna": "*_rna"}},
        labels={"column": "who"},
        survival=None,
    )
    cohort = load_cohort(config)
    text = findings(config, "warning")
    assert "IDH1_mut may leak the answer: IDH status defines the WHO class" in text
    assert "codel_1p19q may leak" in text
    refuse(cohort.findings, strict=False)
    with pytest.raises(RequestError, match="may leak the answer"):
        refuse(cohort.findings, strict=True)


def test_the_same_columns_are_no_leak_for_survival_or_other_tumours() -> None:
    columns = {
        "mut": ["IDH1_mut", "TP53_mut"],
        "cnv": ["MTAP_cnv"],
        "rna": ["IDH1_rnaseq", "TERT_rnaseq", "DEATH_rnaseq"],
    }
    assert leaks(columns, of=FOR_SURVIVAL) == {}
    assert leaks(columns, of=FOR_CLASSES, glioma=False) == {}
    assert leaks(columns, of=FOR_CLASSES, glioma=True) == {"IDH status defines the WHO class of gliomas": ["IDH1_mut"]}


@pytest.mark.parametrize(
    ("name", "leak"),
    [
        ("19q_cnv", True),
        ("chr7_gain", True),
        ("1p/19q codeletion", True),
        ("TERT promoter status", True),
        ("who_grade", True),
        ("EGFR_cnv", True),
        ("CDKN2A_cnv", True),
        ("EGFR_rnaseq", False),
        ("PTEN_mut", False),
        ("age", False),
    ],
)
def test_names_that_leak_the_class_of_a_glioma(name: str, leak: bool) -> None:
    assert bool(leaks({"any": [name]}, of=FOR_CLASSES, glioma=True)) == leak


@pytest.mark.parametrize(
    ("name", "leak"),
    [
        ("vital_status", True),
        ("days_to_death", True),
        ("OS.time", True),
        ("new_tumor_event", True),
        ("age", False),
        ("POSTN_mut", False),
    ],
)
def test_names_that_leak_survival(name: str, leak: bool) -> None:
    assert bool(leaks({"any": [name]}, of=FOR_SURVIVAL)) == leak


def test_every_error_is_reported_before_the_refusal(rows: Rows, configured: Configured) -> None:
    rows[4]["sex"], rows[3]["died"] = "female", "2"
    lines: list[str] = []
    with pytest.raises(RequestError, match=r"\(1 more above\)"):
        refuse(load_cohort(configured(rows)).findings, strict=False, message=lines.append)
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)


def test_the_hash_of_the_data_changes_with_a_value_and_not_with_the_order(rows: Rows, configured: Configured) -> None:
    first = load_cohort(configured(rows)).sha256
    assert load_cohort(configured(rows[::-1])).sha256 == first
    rows[0]["G0_rna"] += 1
    assert load_cohort(configured(rows)).sha256 != first
