"""What a sweep's page says at its top."""

from support.sweep_records import make_records

from service.sweep.loading import parse_sweep
from service.sweep.outcome import Outcome, page_summary
from service.sweep.progress import summary

ONE_FINISHED_NOTE = "only this trial finished: the search cannot tell which settings are better"


def texts(sweep, records):
    """The summary in the log, and the rows of the page as one text."""
    best = max((r for r in records if r.state == "finished"), key=lambda r: r.score)
    rows = page_summary(sweep, Outcome(tuple(records), best, None))
    return summary(sweep, records), "\n".join(text for _, text in rows)


def test_page_and_log_say_where_only_one_trial_finished(make_sweep_content):
    sweep = parse_sweep(make_sweep_content())
    records = make_records(8)
    assert [record.state for record in records].count("finished") == 2
    # Trial 0 is the base's own; the others were stopped or failed.
    for text in texts(sweep, records[:4]):
        assert ONE_FINISHED_NOTE in text
    for text in (*texts(sweep, records), *texts(sweep, records[:1])):
        assert ONE_FINISHED_NOTE not in text
