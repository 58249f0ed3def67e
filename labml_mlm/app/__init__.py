"""
# The labml app on an embedded store

HTTP requests come in; pages and answers go out. Pages and API are those of the `labml-app` package; around them,
`store` keeps in one SQLite file what upstream keeps in MongoDB, `updates` takes each update of a run once, as a whole
or not at all, `pages` serves all files from memory, and `guard` refuses what no labml client and no page sends.

Start with `server`.
"""
import os

# labml_app asks for them when it is imported; what uses them is not ours
os.environ.setdefault('LABML_APP_SERVER_IP', '127.0.0.1')
os.environ.setdefault('LABML_APP_SERVER_PORT', '5005')
