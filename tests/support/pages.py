"""Know the pages of the documentation: what is in their fenced blocks, their headings and their links."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for folder in (".", "docs", "examples")
    for page in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md"))
}
FENCED = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.M)
KEYWORDS = {"if", "then", "else", "fi", "while", "until", "do", "done", "{", "}", "!"}
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block: its language, "" where none is named, and its text."""

    language: str
    text: str


def blocks(page, language=None):
    """Return the fenced blocks of a page, all or those of one language."""
    found = (Block(*groups) for groups in FENCED.findall(PAGES[page]))
    return [block for block in found if language in (None, block.language)]


def prose(page):
    """Return a page without its fenced blocks."""
    return FENCED.sub("", PAGES[page])


def commands(page):
    """Return the words of each command in the blocks of a page: lines of a shell, or those behind a prompt.

    Those that follow another in one line (`|`, `&&`, `;`) are commands, too; what they are redirected to is left out.
    """
    lines = []
    for language, text in blocks(page):
        joined = text.replace("\\\n", " ").splitlines()
        lines += joined if language == "sh" else [line[2:] for line in joined if line.startswith("$ ")]
    return [command for line in _logical(lines) for command in _split(line)]


def inline_commands(page):
    """Return the words of what is a command of ours within the text of a page."""
    return [command for code in re.findall(r"`(funkenshield [^`]+)`", prose(page)) for command in _split(code)]


def _logical(lines):
    """Yield lines of a shell as it reads them: what is quoted may go on in the next one."""
    line = ""
    for each in lines:
        line += each
        try:
            shlex.split(line, comments=True)
        except ValueError:
            line += "\n"
        else:
            yield line
            line = ""


def _split(line):
    """Yield the words of each command of a line, without a shell's own words before it."""
    for command in _commands(line):
        while command and command[0] in KEYWORDS:
            del command[0]
        if command:
            yield command


def _commands(line):
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split, lexer.commenters = True, "#"
    command: list[str] = []
    skipped = False
    for word in lexer:
        if set(word) <= set("|&;()"):
            if command:
                yield command
            command = []
        elif set(word) <= set("<>"):
            skipped = True
        elif skipped:
            skipped = False
        else:
            command.append(word)
    if command:
        yield command


def anchors(page):
    """Return the names by which the headings of a page are linked to."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    texts = (LINK.sub("", heading).replace("[", "").lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-") for text in texts}


def links(page):
    """Return the links of a page that lead to files, each as a path in the source and an anchor, "" for none."""
    found = (link.partition("#") for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link))
    return [((ROOT / page).parent / path if path else ROOT / page, anchor) for path, _, anchor in found]
