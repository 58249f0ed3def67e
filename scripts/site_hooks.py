"""
# The site: README as its first page, annotated sources, and formulas

mkdocs calls the `on_…` functions (https://www.mkdocs.org/user-guide/configuration/#hooks).

An annotated page shows a source file as labml_nn's site does: docstrings, rendered, on the left, and the code that they
document next to them. Formulas become MathML, which browsers draw without a script.
"""
import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import latex2mathml.converter
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / 'labml_mlm'
ANNOTATED = ['evaluation/score.py', 'finetuning/heads.py', 'masking/mlm.py', 'masking/whole_words.py',
             'model/attention.py', 'model/bert.py', 'model/encoder.py', 'model/modernbert.py', 'model/transformer.py',
             'optim/muon.py', 'optim/schedules.py', 'published/esm.py', 'sentences/plan.py']
# Pages from the main folder, where GitHub shows them
PAGES = {'README.md': 'index.md', 'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md',
         'SECURITY.md': 'security.md'}
# Files that these pages link to, for download
FILES = ['experiments/quickstart.ipynb']
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(\\[(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and files that are not in `docs/`."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=_relinked((ROOT / source).read_text(encoding='utf-8'))))
    for source in FILES:
        files.append(File.generated(config, source, abs_src_path=str(ROOT / source)))
    for source in ANNOTATED:
        page = f'annotated/{source.removesuffix(".py")}.md'
        files.append(File.generated(config, page, content=annotated_page(PACKAGE / source)))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Replaces formulas by MathML."""
    return _FORMULA.sub(lambda match: mathml(html.unescape(match[3]), is_block=match[1] == 'div'), content)


def annotated_page(path: Path) -> str:
    """A source file as Markdown: its title, then rows of text and code."""
    rows = list(annotated_rows(path.read_text(encoding='utf-8')))
    name = path.relative_to(PACKAGE.parent).as_posix()
    title, _, rest = rows[0][0].partition('\n')
    parts = [f'---\ntitle: {title.removeprefix("# ")}\nhide: [toc]\n---\n\n{title}\n\n`{name}`\n',
             '<div class="annotated" markdown>']
    for text, code in [(rest, rows[0][1]), *rows[1:]]:
        # Headings of docstrings are below that of the page
        parts += ['<div class="text" markdown>', text, '</div>', '<div markdown="0">', _highlighted(code), '</div>']
    return '\n\n'.join([*parts, '</div>\n'])


def annotated_rows(source: str) -> Iterator[tuple[str, str]]:
    """The docstrings of a file, in their order, each with the code up to the next one."""
    lines, tree = source.splitlines(), ast.parse(source)
    # First line of each row, and the lines of its docstring
    begins = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            decorators = [decorator.lineno for decorator in getattr(node, 'decorator_list', [])]
            begin = 0 if isinstance(node, ast.Module) else min([node.lineno, *decorators]) - 1
            begins.append((begin, node.body[0].lineno - 1, node.body[0].end_lineno, text))
    begins.sort()
    for (begin, first, last, text), (end, *_) in zip(begins, [*begins[1:], (len(lines),)], strict=True):
        yield text, '\n'.join([*lines[begin:first], *lines[last:end]]).strip('\n')


def mathml(formula: str, *, is_block: bool) -> str:
    """A formula in TeX as MathML."""
    # What latex2mathml does not know
    for unknown, known in ((r'\big(', '('), (r'\big)', ')'), (r'\Big(', '('), (r'\Big)', ')'), (r'\tfrac', r'\frac')):
        formula = formula.replace(unknown, known)
    return latex2mathml.converter.convert(formula.strip(), display='block' if is_block else 'inline')


def _highlighted(code: str) -> str:
    # Blank lines would end the block of HTML in Markdown
    shown = highlight(code, PythonLexer(), HtmlFormatter(cssclass='highlight', wrapcode=True))
    return shown.replace('\n\n', '\n&#8203;\n') if code else ''


def _relinked(text: str) -> str:
    """Links as seen from `docs/`."""
    text = re.sub(r'\]\(docs/', '](', text)
    for source, page in PAGES.items():
        text = text.replace(f']({source}', f']({page}')
    return re.sub(r'\[LICENSE\]\(LICENSE\)', 'LICENSE', text)
