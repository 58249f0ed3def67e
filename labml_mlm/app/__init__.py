"""
# The labml app on an embedded store

The pages and the API are those of the `labml-app` package, as it is on the disk. What is ours stands around them:

* `store` keeps in one SQLite file what upstream keeps in MongoDB
* `updates` takes the updates of runs: each once, all of it or nothing
* `pages` serves upstream's pages, and what they would fetch from elsewhere, from memory
* `guard` refuses what no labml client and none of those pages sends
* `server` puts it together
"""
import os

# labml_app asks for them when it is imported; what uses them is not ours
os.environ.setdefault('LABML_APP_SERVER_IP', '127.0.0.1')
os.environ.setdefault('LABML_APP_SERVER_PORT', '5005')
