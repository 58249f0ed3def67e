"""Characters by script."""
from labml_mlm.text_facts import characters
from labml_mlm.text_facts.characters import Characters, by_script


def counts_of(*pieces):
    counted = Characters()
    for piece in pieces:
        counted.add(piece)
    return counted.counts


def test_characters_are_counted(monkeypatch):
    # Some at once
    monkeypatch.setattr(characters, '_BUFFER', 5)
    assert counts_of('abca', '日a', '👩\n') == {'\n': 1, 'a': 3, 'b': 1, 'c': 1, '日': 1, '👩': 1}


def test_characters_have_scripts():
    text = 'Zoë, Привет 12! 日本 かな カナ नमस्ते שלום e\u0301\u200b\u200d👩\n\ufffd\ue000'
    assert by_script(counts_of(text)) == {
        'white space': 9, 'Latin': 4, 'Cyrillic': 6, 'punctuation': 2, 'digits': 2, 'Han': 2, 'Hiragana': 2,
        'Katakana': 2, 'Devanagari': 6, 'Hebrew': 4, 'combining marks': 1, 'invisible characters': 2, 'signs': 1,
        'replacement characters (U+FFFD)': 1, 'unassigned or private': 1}


def test_most_frequent_script_comes_first():
    assert list(by_script(counts_of('ab Привет'))) == ['Cyrillic', 'Latin', 'white space']
