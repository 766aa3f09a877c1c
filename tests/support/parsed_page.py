"""An HTML page of results as a browser parses it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The page as a browser parses it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.sources, self.policy = [], [], [], ""
        self.scripts, self.captions, self.inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.sources += [values[name] for name in ("src", "href") if name in values]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append([values.get("type"), ""])
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside in ("td", "th"):
            self.rows[-1][-1] += data
        if self.inside == "script":
            self.scripts[-1][1] += data
        if self.inside == "figcaption":
            self.captions.append(data)
