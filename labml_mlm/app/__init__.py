"""
# The labml app on an embedded store

HTTP requests come in; pages and answers go out. Pages and API are those of the `labml-app` package. Around them,
`store` keeps in one SQLite file what upstream keeps in MongoDB, and `known` what came of its rows; `updates` takes
each update of a run once, atomically, `curves` keeps their points, `first_look` says what is shown before a person
has chosen, `preferences` checks what a person chooses, `pages` serves all files from memory, and `guard` refuses
requests that neither a labml client nor the app's own pages send.

Start with `server`.
"""
import os

# labml_app reads them on import; only parts of it that are not used here need them
os.environ.setdefault('LABML_APP_SERVER_IP', '127.0.0.1')
os.environ.setdefault('LABML_APP_SERVER_PORT', '5005')

# What a chart has until a person selects other curves
CURVES = 'loss.train', 'loss.valid', 'accuracy.train', 'accuracy.valid'
# Before the name of an indicator: the curve of its values that are NaN or infinite
NOT_FINITE = 'not_finite.'
