"""
Runs scripts in processes of their own, as `python script.py …` would, but with torch and labml already imported, which
is most of the time of a short run. It prints `ready`. A line of JSON on stdin starts a script; its process id and, when
it ends, its exit code are printed.
"""
import json
import os
import runpy
import sys

import scipy.stats  # noqa: F401  metrics of labels import it, and scikit-learn
import sklearn.metrics  # noqa: F401
import torch._dynamo  # noqa: F401  torch's optimizers import it

import labml_mlm.launch.train_files  # noqa: F401  it imports all classes of configs

print('ready', flush=True)
for line in sys.stdin:
    request = json.loads(line)
    outputs = [os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) for path in request['outputs']]
    pid = os.fork()
    if pid == 0:
        os.chdir(request['cwd'])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream, output in enumerate(outputs, start=1):
            os.dup2(output, stream)
        os.environ.clear()
        os.environ.update(request['env'])
        sys.argv = request['argv']
        runpy.run_path(sys.argv[0], run_name='__main__')
        sys.exit()
    for output in outputs:
        os.close(output)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
