import csv
import io

from support.project import values_of


def test_all_values_of_the_log(command, run, tmp_path):
    code, out, err = command('export-metrics', 'feed', '-o', '-')
    assert (code, err) == (0, '')
    rows = list(csv.DictReader(io.StringIO(out)))
    found = {(row['name'], int(row['step'])): float(row['value']) for row in rows}
    assert found == {(name, step): value for name, curve in values_of(run / 'log.jsonl').items()
                     for step, value in curve}
    assert {(row['run'], row['experiment']) for row in rows} == {('feed', 'test')}
    path = tmp_path / 'runs.csv'
    assert command('export-metrics', 'feed', 'last', '-o', str(path))[1] == f'{path} has {len(rows):,} values of feed\n'
    assert path.read_text() == out


def test_wrong_arguments(assert_refused):
    assert_refused('export-metrics', 'feed', message='the following arguments are required: -o/--output')
    assert_refused('export-metrics', 'feed', '-o', 'runs.json', message='-o runs.json: it must end in .csv or .parquet')
    assert_refused('export-metrics', 'fead', '-o', '-', message='Did you mean feed?')
