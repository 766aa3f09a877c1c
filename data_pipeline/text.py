"""Names that others chose, in messages and manifests."""


def printable(text: str) -> str:
    """The text with escapes for what a terminal or UTF-8 cannot show, such as bytes of a file name
    that are no UTF-8, newlines and codes that change colors.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
