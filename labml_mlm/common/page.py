"""Pages of HTML that need no script, and nothing from elsewhere."""
import html


def escaped(text: object) -> str:
    """As text in HTML, which has no control characters: their pictures instead."""
    return html.escape(''.join(chr(0x2400 + ord(c)) if c < ' ' and c not in '\n\t' else c for c in str(text)))


def whole_page(title: str, *, style: str, body: str) -> str:
    """
    A page that loads nothing and runs nothing, whatever stands in its texts.

    * `title` is text
    * `style` and `body` are CSS and HTML, in which all texts are `escaped`
    """
    return f'''<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(' '.join(title.split()))}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
'''
