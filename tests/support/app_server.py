"""The labml app for tests: `labml-mlm app` in a process of its own."""
import base64
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import numpy as np


class AppServer:
    """`labml-mlm app` in a process of its own; `options` are those of `Popen`."""

    def __init__(self, store, *arguments, port=0, **options):
        self.store = store
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'labml_mlm', 'app', '--port', str(port), '--store', str(store), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        self.line = self.process.stdout.readline()
        found = re.search(r'The labml app is at (http://[^,]*):(\d+), with its runs in ', self.line)
        assert found, (self.line, self.process.communicate())
        self.port = int(found[2])
        self.url = f'http://127.0.0.1:{self.port}'
        self.app_url = f'{self.url}/api/v1/default'

    def ask(self, path, body=None, *, method=None, **headers):
        """The JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f'{self.url}/api/v1/{path}', data, method=method,
                                         headers={'Content-Type': 'application/json', **headers})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())

    def update(self, uuid, *updates, version='0.5.3'):
        return self.ask(f'default/track?run_uuid={uuid}&labml_version={version}', list(updates))

    def points(self, uuid, name='loss'):
        """Steps and values that a curve is drawn from."""
        series = self.ask(f'metrics/{uuid}', {'get_all': True})['series']
        return {tuple(numbers(one[key]) for key in ('last_step', 'value')) for one in series if one['name'] == name}

    def status_of(self, path, data=b'', *, method='GET', headers=()):
        """The status and the body of the answer to what is sent as it is."""
        head = ''.join(f'{name}: {value}\r\n' for name, value in
                       {'Host': f'localhost:{self.port}', **dict(headers)}.items())
        length = f'Content-Length: {len(data)}\r\n' if data else ''
        return self.raw(f'{method} {path} HTTP/1.1\r\n{head}{length}Connection: close\r\n\r\n'.encode() + data)

    def raw(self, data):
        with socket.create_connection(('127.0.0.1', self.port), timeout=30) as connection:
            connection.sendall(data)
            answer = b''
            try:
                while chunk := connection.recv(1 << 16):
                    answer += chunk
            except ConnectionResetError:
                pass
        head, _, body = answer.partition(b'\r\n\r\n')
        return int(head.split()[1]), body

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)


def numbers(data):
    return tuple(np.frombuffer(base64.b64decode(data), np.float32).tolist())
