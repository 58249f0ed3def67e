"""The commands and Python blocks of README and `docs/`."""
import re

from support.project import ROOT

README = (ROOT / 'README.md').read_text(encoding='utf-8')
PAGES = {path.name: path.read_text(encoding='utf-8') for path in [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md'))]}
# Each once, wherever it stands
COMMANDS = list(dict.fromkeys(line for page in PAGES.values()
                              for block in re.findall(r'```sh\n(.*?)```', page, re.DOTALL)
                              for line in block.splitlines()))
BLOCKS = {name: re.findall(r'```python\n(.*?)```', page, re.DOTALL) for name, page in PAGES.items()}
