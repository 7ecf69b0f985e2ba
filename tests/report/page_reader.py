"""Reads a page as a browser does."""

import json
from collections import Counter
from html.parser import HTMLParser

from sightline.report.page import build_report

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}</style>'


class Page(HTMLParser):
    """Elements, attributes and texts of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.text = Counter(), [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data

    def values(self, name):
        return [value for _, attribute, value in self.attributes if attribute == name]


def page_of(run):
    return Page(build_report(run))


def replace_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
