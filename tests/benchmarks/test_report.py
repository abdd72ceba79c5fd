"""The committed report matches the committed measurements."""

import json

from benchmarks.report import markdown as report
from tests import tiny

DOCS = tiny.REPOSITORY / "docs"


def test_the_report_is_that_of_the_measurements():
    records = json.loads((DOCS / "benchmarks.json").read_text())
    assert report.markdown(records, "benchmarks.png") == (DOCS / "benchmarks.md").read_text()


def test_every_promise_was_measured_in_nine_rounds():
    records = json.loads((DOCS / "benchmarks.json").read_text())
    promised = {name for _, name, *_ in report.PROMISES}
    assert {name for name in promised if records[name]["rounds"] < 9} == set()
